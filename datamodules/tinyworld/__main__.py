"""Write splits of the small world as shards, one to a folder of choice, or all that a data configuration names.

`python -m datamodules.tinyworld --out DIR --split train --count 20000 --seed 0`
`python -m datamodules.tinyworld --config configs/data/demo.yaml`
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import yaml

from datamodules.shard_index import INDEX_FILE
from datamodules.tinyworld.sample import SPLITS
from datamodules.tinyworld.write import write_split


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 when written, 1 with one clear line when not."""
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.tinyworld",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder for the shards of one split; must hold none yet")
    where.add_argument("--config", type=Path, help="YAML with a `data` section: write the splits that it lacks")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--count", type=int, help="number of samples; needed with --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-photographs", dest="photographs", action="store_false", help="only drawn scenes")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw (0: this one)")
    options = parser.parse_args(arguments)
    if options.out is not None and options.count is None:
        parser.error("--out needs --count")
    try:
        if options.config is not None:
            write_config(options.config)
        else:
            write_with_bar(
                options.out, options.split, options.count, options.seed, options.photographs, options.workers
            )
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def write_config(path: Path) -> None:
    """Write the training, validation and test splits of a data configuration that are not complete yet."""
    from datamodules.tinyworld.data import TinyWorldData

    data = TinyWorldData(**yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["init_args"])
    for split, source in data.sources.items():
        folder = Path(str(data.folders[split]))
        if (folder / INDEX_FILE).exists():
            print(f"{folder}: there already")
        else:
            write_with_bar(folder, source, data.counts[split], data.world_seed, data.photographs, data.writers)


def write_with_bar(folder: Path, split: str, count: int, seed: int, photographs: bool, workers: int) -> None:
    """Write one split with a progress bar, and say how fast it went."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(f"tinyworld {split}", total=count)
        index = write_split(folder, split, count, seed, photographs, workers, lambda: progress.advance(task))
    seconds = time.perf_counter() - started
    print(f"{folder}: {len(index)} samples in {len(index.shards)} shards, {len(index) / seconds:.0f} samples/s")


if __name__ == "__main__":
    sys.exit(main())
