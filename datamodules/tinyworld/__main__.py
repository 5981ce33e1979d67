"""Write splits of the small world as shards, one to a folder of choice, or all that a data configuration names.

`python -m datamodules.tinyworld --level plain --out DIR --split train --count 20000 --seed 0`
`python -m datamodules.tinyworld --world illustrations --out DIR --split train --count 20000 --seed 0`
`python -m datamodules.tinyworld --config configs/data/plain.yaml`
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from datamodules.commands import OptionParser, interruptible, printable_output
from datamodules.tinyworld.contents import CONTENTS, ContentWorld
from datamodules.tinyworld.splits import SPLITS
from datamodules.tinyworld.world import DENOISER_KINDS, KINDS, LEVELS, World
from datamodules.tinyworld.write import write_split

if TYPE_CHECKING:
    from datamodules.shard_data import Split
    from datamodules.shard_index import ShardIndex
    from datamodules.tinyworld.data import TinyWorldData

SCENES = "scenes"


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 when written, 1 with one clear line when not."""
    parser = OptionParser(
        prog="python -m datamodules.tinyworld",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder for the shards of one split; must hold none yet")
    where.add_argument("--config", type=Path, help="YAML with a `data` section: write the splits that it lacks")
    parser.add_argument("--world", choices=(SCENES, *CONTENTS), default=SCENES, help="with --out (default %(default)s)")
    parser.add_argument("--level", choices=LEVELS, help="of scenes (default full)")
    splits = dict.fromkeys([*SPLITS, *(split for content in CONTENTS.values() for split in content.splits)])
    parser.add_argument("--split", choices=tuple(splits), default="train")
    parser.add_argument("--count", type=int, help="number of samples; needed with --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-photographs", dest="photographs", action="store_false", help="only drawn scenes")
    parser.add_argument("--centred", action="store_true", help="scenes of one object in the middle, on level plain")
    parser.add_argument("--objects", type=int, default=0, help="scenes whose goal has so many (default: any)")
    help_text = f"kinds of instruction of scenes (default: {' '.join(DENOISER_KINDS)})"
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help=help_text)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw (0: this one)")
    options = parser.parse_args(arguments)
    printable_output()
    if options.out is not None and options.count is None:
        parser.error("--out needs --count")
    of_scenes = options.level, options.kinds, options.centred, options.objects, not options.photographs
    if options.world != SCENES and any(of_scenes):
        parser.error(f"--level, --kinds, --centred, --objects and --no-photographs are of --world {SCENES} alone")
    try:
        if options.config is not None:
            write_config(options.config)
        else:
            settings = options.split, options.count, chosen_world(options), options.workers
            write_with_bar(options.split, options.count, partial(write_split, options.out, *settings))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def chosen_world(options: argparse.Namespace) -> World | ContentWorld:
    """The world that the options of the command line name."""
    if options.world != SCENES:
        return ContentWorld(options.world, options.seed)
    kinds = tuple(options.kinds or DENOISER_KINDS)
    scenes = {"centred": options.centred, "objects": options.objects}
    return World(options.seed, options.level or "full", options.photographs, kinds, **scenes)


def write_config(path: Path) -> None:
    """Write the training, validation and test splits of a data configuration that are not complete yet.

    Raises:
        ValueError: naming the file and what in it cannot be used.
    """
    data = read_config(path)
    splits: tuple[Split, ...] = ("train", "val", "test")
    for split in splits:
        if data.is_written(split):
            print(f"{data.folder(split)}: there already")
            continue
        try:
            write_with_bar(data.sources[split], data.counts[split], partial(_write_missing, data, split))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _write_missing(data: TinyWorldData, split: Split, each: Callable[[], object]) -> ShardIndex:
    data.prepare_split(split, each)
    return data.load_index(split)


def read_config(path: Path) -> TinyWorldData:
    """The data module under `data` (class_path and init_args) of a YAML.

    Raises:
        ValueError: naming the file and the key, for what is no YAML, another class, and unknown or wrong arguments.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    from datamodules.tinyworld.data import TinyWorldData

    wanted = f"{TinyWorldData.__module__}.{TinyWorldData.__qualname__}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        section = content.get("data") if isinstance(content, dict) else None
        if not isinstance(section, dict):
            raise ValueError(f"data: expected a section with class_path and init_args, found {section!r}")
        if section.get("class_path") != wanted:
            raise ValueError(f"data.class_path: expected {wanted}, found {section.get('class_path')!r}")
        given = section.get("init_args") or {}
        if not isinstance(given, dict):
            raise ValueError(f"data.init_args: expected names and values, found {given!r}")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(TinyWorldData, "data.init_args")
        arguments = parser.parse_object({"data": {"init_args": given}})
        return TinyWorldData(**arguments.data.init_args)
    except (ValueError, yaml.YAMLError, ArgumentError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def write_with_bar(split: str, count: int, write: Callable[[Callable[[], object]], ShardIndex]) -> None:
    """Run `write`, which calls its argument after each sample, with a progress bar, and say how fast it went."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(f"tinyworld {split}", total=count)
        index = write(lambda: progress.advance(task))
    rate = len(index) / (time.perf_counter() - started)
    print(f"{index.directory}: {len(index)} samples in {len(index.shards)} shards, {rate:.0f} samples/s")


if __name__ == "__main__":
    with interruptible():
        sys.exit(main())
