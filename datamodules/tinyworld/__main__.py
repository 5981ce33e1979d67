"""Write a split of the small world as shards.

`python -m datamodules.tinyworld --out DIR --split train --count 20000 --seed 0`
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from datamodules.tinyworld.sample import SPLITS
from datamodules.tinyworld.write import write_split


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 when written, 1 with one clear line when not."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.tinyworld", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards; must hold none yet")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--count", type=int, required=True, help="number of samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-photographs", dest="photographs", action="store_false", help="only drawn scenes")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw (0: this one)")
    options = parser.parse_args(arguments)

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns) as progress:
            task = progress.add_task(f"tinyworld {options.split}", total=options.count)
            index = write_split(
                options.out,
                options.split,
                options.count,
                options.seed,
                options.photographs,
                options.workers,
                lambda: progress.advance(task),
            )
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    seconds = time.perf_counter() - started
    print(f"{options.out}: {len(index)} samples in {len(index.shards)} shards, {len(index) / seconds:.0f} samples/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
