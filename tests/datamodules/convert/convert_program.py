"""Converts a part of a dataset; says how far it is and waits for a line each time before it goes on.

`python -m tests.datamodules.convert.convert_program NAME SOURCE OUT WORKERS`. Tests kill it in between.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from datamodules.convert.__main__ import _parser
from datamodules.convert.converters import CONVERTERS
from datamodules.convert.engine import Options, convert


def main(name: str, source: str, out: str, workers: str) -> None:
    """Convert with the command line's defaults; `workers` is a number."""
    options = _parser().parse_args([name, "--source", source, "--out", out])

    def tell(finished: int, total: int) -> None:
        del total
        sys.stdout.write(f"{finished}\n")
        sys.stdout.flush()
        sys.stdin.readline()

    how = Options(workers=int(workers), samples_per_shard=4, partial=True)
    convert(CONVERTERS[name].build(options), Path(out), how, tell)


def command_of(python: str, name: str, source: Path, out: Path, workers: int) -> list[str]:
    """How to start this program."""
    return [python, "-m", "tests.datamodules.convert.convert_program", name, str(source), str(out), str(workers)]


def kill_after(items: int, command: list[str], root: Path, out: Path) -> list[str]:
    """Run this program, kill it once so many items are finished; returns the names of the records of sections."""
    program = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while int(program.stdout.readline()) < items:
        program.stdin.write("\n")
        program.stdin.flush()
    program.send_signal(signal.SIGKILL)
    program.stdout.read()  # ends when the last worker has ended, for each holds the other end
    program.wait()
    assert not (out / "conversion.json").exists() and not (out / "train").exists()
    return [path.stem for path in (out / "converting" / "records").rglob("*.json")]


if __name__ == "__main__":
    main(*sys.argv[1:])
