"""Runs a converter: sections of its items in parallel, finished ones kept, the same bytes for any number of processes.

See `source` for what a converter declares, `section` for what one shard is, `workspace` for what survives a kill.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from datamodules.card import write_card
from datamodules.convert.report import REPORT_FILE, build_report, card_of
from datamodules.convert.section import Section, cut, write_section
from datamodules.convert.source import ConversionError, IndexSource, Source
from datamodules.convert.workspace import Workspace
from datamodules.shard_writer import held

_FORMAT = 3  # counts up when the same items come to give other bytes
_SPACE_MARGIN = 1.05
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Progress = Callable[[int, int], None]
"""Called with the number of items finished and of all items."""


@dataclass(frozen=True)
class Options:
    """How to convert, whatever the dataset.

    Attributes:
        workers: processes; 1 for this one alone. The result is the same.
        samples_per_shard: about how many samples a shard gets at most.
        check: decode each sample once and drop what the stream would refuse.
        partial: the source is a part of the dataset; do not compare with the published totals.
        check_space: refuse to begin when the disk has less room than the result will need.
        licence: of the dataset, for its card; "" where none is given.
        rank, num_ranks: of the processes, on one host or several, that convert into one folder together; section i is
            written by rank i % num_ranks.
    """

    workers: int = 1
    samples_per_shard: int = 1000
    check: bool = True
    partial: bool = False
    check_space: bool = True
    licence: str = ""
    rank: int = 0
    num_ranks: int = 1


@dataclass(frozen=True)
class _Task:
    """What a process needs to write one section."""

    source: Source
    section: Section
    items: Sequence[Any]
    workspace: Workspace
    check: bool

    def run(self) -> int:
        """Write the section; returns its number of items."""
        with self.workspace.scratch() as scratch:
            folder = self.workspace.shards(self.section.split)
            written = write_section(self.source, self.section, self.items, folder, scratch, self.check)
            self.workspace.keep(self.section, written)
        return len(self.items)


def convert(source: Source, out: str | Path, options: Options, progress: Progress | None = None) -> dict[str, Any]:
    """Convert a dataset into folders `OUT/SPLIT` of shards; returns the report, which `OUT/conversion.json` holds too.

    The same call again goes on where a killed one stopped; nothing is written twice. A finished one only returns its
    report.

    Raises:
        ConversionError: the source is not as published, too little space, the folder holds something else, or no
            sample was kept.
        ShardError: another process converts into the same folder, or a key comes twice.
    """
    report = convert_part(source, out, replace(options, rank=0, num_ranks=1), progress)
    assert report is not None, "one process alone has finished all that there is"
    return report


def convert_part(
    source: Source, out: str | Path, options: Options, progress: Progress | None = None
) -> dict[str, Any] | None:
    """This rank's part of `convert`; returns the report, or None where other ranks are not done yet.

    Nobody waits: the rank that finishes last joins what all have written. The result is the same for any number.

    Raises:
        ConversionError, ShardError: as in `convert`; another process that writes the same rank's part.
    """
    _check_options(options)
    out = Path(out)
    splits = source.splits()
    if not any(map(len, splits.values())):
        raise ConversionError(f"{source.source}: no entries of {source.name} found there; is it the right folder?")
    if not options.partial:
        source.check_totals(splits)
    sections = cut(splits, source.items_per_section(options.samples_per_shard))
    workspace = Workspace(out, options.rank, options.num_ranks)
    with held(workspace.own):
        plan = _plan(source, splits, options)
        try:
            if workspace.begin(plan):
                own = [section for number, section in enumerate(sections) if number % options.num_ranks == options.rank]
                _run(workspace, source, splits, own, options, progress)
                with workspace.turn():
                    return _not_empty(_joined(workspace, source, splits, sections, plan, options.licence), out)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise ConversionError(
                f"{out}: no room ({error.strerror}); finished shards are kept: make room and run the same command again"
            ) from error
    return _not_empty(workspace.read_report(), out)


def _not_empty(report: dict[str, Any] | None, out: Path) -> dict[str, Any] | None:
    """The report of a conversion that kept something, or one that is not finished.

    Raises:
        ConversionError: every item was dropped.
    """
    parts = report["splits"].values() if report else ()
    if report is None or any(part["samples"] for part in parts):
        return report
    dropped = sum((Counter(part["dropped"]) for part in parts), Counter())
    first = next((finding for finding in report["findings"] if finding["dropped"]), None)
    why = ", ".join(f"{reason} {count:,}" for reason, count in dropped.most_common()) or "nothing came of them"
    raise ConversionError(
        f"{out}: no sample was kept of {sum(part['items'] for part in parts):,} entries, dropped were: {why}"
        + (f" (the first, {first['item']}: {first['detail']})" if first else "")
        + f"; {out / REPORT_FILE} names more: mend the source, and give another folder for the result or remove this"
    )


def _check_options(options: Options) -> None:
    for name in ("workers", "samples_per_shard"):
        if (value := getattr(options, name)) < 1:
            raise ConversionError(f"--{name.replace('_', '-')}: expected at least 1, found {value}")
    if not 0 <= options.rank < options.num_ranks:
        raise ConversionError(f"rank: expected one of {options.num_ranks} from 0 on, found {options.rank}")


def _plan(source: Source, splits: dict[str, Sequence[Any]], options: Options) -> dict[str, Any]:
    """Everything that the bytes of the result depend on."""
    return {
        "converter": source.name,
        "format": _FORMAT,
        "settings": source.settings(),
        "samples_per_shard": options.samples_per_shard,
        "check": options.check,
        "items": {split: [len(items), _digest(items)] for split, items in splits.items()},
    }


def digest_of(splits: dict[str, Sequence[Any]]) -> str:
    """A name for what all items of a dataset become: equal for equal ones, in every process."""
    return _digest([_FORMAT, *splits.items()])


def _digest(items: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for item in [items] if not isinstance(items, list) else items:
        digest.update(repr(item).encode("utf-8", "backslashreplace") + b"\n")
    return digest.hexdigest()[:16]


def _run(
    workspace: Workspace,
    source: Source,
    splits: dict[str, Sequence[Any]],
    sections: list[Section],
    options: Options,
    progress: Progress | None,
) -> None:
    todo = [section for section in sections if not _is_done(workspace, source, section)]
    total, all_items = (sum(section.stop - section.start for section in sections), sum(map(len, splits.values())))
    if options.check_space and todo:
        _check_space(workspace, source, splits, sum(section.stop - section.start for section in todo) / all_items)
    finished = total - sum(section.stop - section.start for section in todo)
    tasks = (
        _Task(source, section, splits[section.split][section.start : section.stop], workspace, options.check)
        for section in todo
    )
    if progress:
        progress(finished, total)
    for count in _in_processes(tasks, options.workers) if options.workers > 1 else map(_Task.run, tasks):
        finished += count
        if progress:
            progress(finished, total)


def _is_done(workspace: Workspace, source: Source, section: Section) -> bool:
    written = workspace.finished(section)
    return written is not None and workspace.is_whole(section, written, isinstance(source, IndexSource))


def _check_space(workspace: Workspace, source: Source, splits: dict[str, Sequence[Any]], share: float) -> None:
    needed = int(sum(source.estimate(items) for items in splits.values()) * share * _SPACE_MARGIN)
    free = shutil.disk_usage(workspace.out).free
    if needed > free:
        raise ConversionError(
            f"{workspace.out}: about {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; make room, "
            "choose another --out, or go ahead with --no-space-check"
        )


def _in_processes(tasks: Iterator[_Task], workers: int) -> Iterator[int]:
    """Run tasks in other processes, a few of them waiting; yields the number of items of each as it finishes."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker)
    waiting: set[Future[int]] = set()
    try:
        for task in tasks:
            waiting.add(pool.submit(_Task.run, task))
            if len(waiting) >= 2 * workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        for future in waiting:
            yield future.result()
    except BrokenProcessPool as error:
        raise ConversionError(
            "a worker process was killed (out of memory?); finished shards are kept: run the same command again, "
            "with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed tells nobody; without this its workers would wait for tasks forever."""
    parent_process().join()
    os._exit(1)


def _joined(
    workspace: Workspace,
    source: Source,
    splits: dict[str, Sequence[Any]],
    sections: list[Section],
    plan: dict[str, Any],
    licence: str,
) -> dict[str, Any] | None:
    """The report, after joining what all ranks have written; None where one of them has still something to write."""
    if workspace.is_finished():
        workspace.tidy()
    elif all(_is_done(workspace, source, section) for section in sections):
        _finish(workspace, source, splits, sections, plan, licence)
    else:
        return None
    return workspace.read_report()


def _finish(
    workspace: Workspace,
    source: Source,
    splits: dict[str, Sequence[Any]],
    sections: list[Section],
    plan: dict[str, Any],
    licence: str,
) -> None:
    written = {section: workspace.finished(section) for section in sections}
    report = build_report(source, splits, written, plan)
    for split in splits:
        rows = [shard.row for section, shard in written.items() if section.split == split and shard.row]
        workspace.publish(split, rows)
    write_card(workspace.out, card_of(report, licence))
    workspace.end(report)
