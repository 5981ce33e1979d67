"""What the command lines have in common that make shards of shards with a mapper: options, ranks, answers, report."""

import argparse
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmig.base.commands import one_line_errors
from mmig.base.processor import share_cores
from mmig.cache.map import Answered, AnswerError, AskingMapper, Mapper

logger = logging.getLogger(__name__)
Report = Mapping[str, Any]
MapShards = Callable[..., Report | None]
"""`datamodules.shards.map_shards`, which programs alone import."""


def add_shard_options(parser: argparse.ArgumentParser) -> None:
    """Which shards are read and written, and where answers come from and go to."""
    parser.add_argument("--source", required=True, help="folder of shards, or its URL")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards that are made")
    parser.add_argument("--replay", type=Path, nargs="+", help="files of answers given elsewhere, JSON lines")
    parser.add_argument(
        "--record", type=Path, help="file that new answers are added to (one a rank: NAME.00001.jsonl and so on)"
    )


def map_in_one_line(
    make: Callable[[], tuple[Mapper | AskingMapper, int]], options: argparse.Namespace, map_shards: MapShards
) -> None:
    """Map this rank's shards and say what came of them; what a user can mend ends in one line.

    Args:
        make: gives the mapper, and how many samples it is given at once.
        options: with those of `add_shard_options`.
        map_shards: of `datamodules.shards`.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    share_cores()
    with one_line_errors():
        report = run_mapper(*make(), options, map_shards)
        if report is None:
            logger.info("%s: the shards of this rank are written; the rank that ends last joins them", options.out)
            return
        (totals,) = report["splits"].values()
        said = {name: _counts(totals[name]) for name in ("dropped", "counted") if name in totals}
        found = "; ".join(f"{name}: {counts}" for name, counts in said.items())
        logger.info("%s: %d samples in %d shards; %s", options.out, totals["samples"], totals["shards"], found)


def run_mapper(
    mapper: Mapper | AskingMapper, batch_size: int, options: argparse.Namespace, map_shards: MapShards
) -> Report | None:
    """Map this rank's shards (RANK and WORLD_SIZE); returns the report, or None where other ranks are not done yet.

    Raises:
        ValueError: for shards, answers or a folder that cannot be used.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rank, num_ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    asks = isinstance(mapper, AskingMapper)
    if (options.replay or options.record) and not asks:
        raise AnswerError(
            f"--replay, --record: {type(mapper).__name__} asks nothing (it has no answer()); leave them out"
        )
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


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing"
