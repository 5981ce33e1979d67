"""Converts a folder of InstructPix2Pix prompts; says how far it is and waits for a line each time before it goes on.

`python -m tests.datamodules.convert.convert_program SOURCE OUT WORKERS`. A test kills it in between.
"""

from __future__ import annotations

import sys
from pathlib import Path

from datamodules.convert.engine import Options, convert
from datamodules.convert.ipr2pr import ipr2pr


def main(source: str, out: str, workers: str) -> None:
    """Convert; `workers` is a number."""

    def tell(finished: int, total: int) -> None:
        del total
        sys.stdout.write(f"{finished}\n")
        sys.stdout.flush()
        sys.stdin.readline()

    convert(ipr2pr(source), Path(out), Options(workers=int(workers), samples_per_shard=4, partial=True), tell)


if __name__ == "__main__":
    main(*sys.argv[1:])
