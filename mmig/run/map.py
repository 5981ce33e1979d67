"""Command line: `python -m mmig.run.map --config FILE --source SHARDS --out DIR [--replay FILE ...] [--record FILE]`.

Makes shards of shards with a mapper (`mmig.cache.map`): texts that a language model writes, crops of what a detector
finds. FILE holds `mapper: {class_path: ..., init_args: {...}}` and, if any, `batch_size`, the samples given at once.

Killed, it goes on where it was. Under torchrun, or with RANK and WORLD_SIZE set, shard i belongs to rank
i % WORLD_SIZE; ranks may start and end at any time, and the one that finishes last joins the result. DIR is the same
to the byte for any number of ranks, and whether answers were given here or replayed.
"""

import argparse
import contextlib
import logging
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.shards import map_shards
from mmig.base.commands import OptionParser, one_line_errors
from mmig.base.processor import share_cores
from mmig.base.settings import RefusedSettingsError, call
from mmig.cache.map import Answered, AskingMapper, Mapper
from mmig.evaluation.settings import read_yaml

logger = logging.getLogger(__name__)
SETTINGS = ("mapper", "batch_size")


class MapError(ValueError):
    """A configuration that names no mapper, or options that do not fit it."""


def read_config(path: Path) -> tuple[Mapper | AskingMapper, int]:
    """The mapper of a configuration, and how many samples it is given at once.

    Raises:
        MapError: there is none, or what is named is no mapper.
    """
    config = read_yaml(path)
    if unknown := sorted(config.keys() - set(SETTINGS)):
        raise MapError(f"{path}: expected {' and '.join(SETTINGS)}, found {unknown[0]!r} beside them")
    section, batch_size = config.get("mapper"), config.get("batch_size", 16)
    if not isinstance(section, dict) or "class_path" not in section:
        raise MapError(f"{path}: expected a section `mapper` with class_path and init_args, found {section!r}")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise MapError(f"{path}: batch_size: expected a whole number of at least 1, found {batch_size!r}")
    try:
        mapper = call(section)
    except RefusedSettingsError as error:
        raise MapError(f"{path}: mapper: {error}") from error
    if not isinstance(mapper, Mapper | AskingMapper):
        raise MapError(
            f"{path}: mapper: {section['class_path']} is no mapper: expected facts() and either __call__(samples), or "
            "answer(samples) and apply(sample, answer)"
        )
    return mapper, batch_size


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Map this rank's shards; returns the report, or None where other ranks are not done yet.

    Raises:
        ValueError: for a configuration, shards, answers or a folder that cannot be used.
    """
    rank, num_ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mapper, batch_size = read_config(options.config)
    asks = isinstance(mapper, AskingMapper)
    if (options.replay or options.record) and not asks:
        raise MapError(f"--replay, --record: {type(mapper).__name__} asks nothing (it has no answer()); leave them out")
    with contextlib.ExitStack() as stack:
        if asks:
            record = _of_rank(options.record, rank, num_ranks)
            mapper = stack.enter_context(Answered(mapper, options.replay or (), record))
        columns = (TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        progress = stack.enter_context(Progress(*columns, disable=rank != 0, console=Console(stderr=True)))
        task = progress.add_task("shards", total=None)
        return map_shards(
            options.source,
            options.out,
            mapper,
            mapper.facts(),
            batch_size,
            rank,
            num_ranks,
            lambda finished, total: progress.update(task, completed=finished, total=total),
        )


def _of_rank(record: Path | None, rank: int, num_ranks: int) -> Path | None:
    """The file that a rank adds its answers to."""
    return record if record is None or num_ranks == 1 else record.with_name(f"{record.stem}.{rank:05d}{record.suffix}")


def main(arguments: list[str] | None = None) -> None:
    """Map shards to shards; what a user can mend ends in one line."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML with the mapper")
    parser.add_argument("--source", required=True, help="folder of shards, or its URL")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards that are made")
    parser.add_argument("--replay", type=Path, nargs="+", help="files of answers given elsewhere, JSON lines")
    parser.add_argument(
        "--record", type=Path, help="file that new answers are added to (one a rank: NAME.00001.jsonl and so on)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    share_cores()
    with one_line_errors():
        report = run(options)
        if report is None:
            logger.info("%s: the shards of this rank are written; the rank that ends last joins them", options.out)
            return
        (totals,) = report["splits"].values()
        dropped = ", ".join(f"{reason} {count}" for reason, count in totals["dropped"].items()) or "nothing"
        logger.info(
            "%s: %d samples in %d shards; dropped: %s", options.out, totals["samples"], totals["shards"], dropped
        )


if __name__ == "__main__":
    main()
