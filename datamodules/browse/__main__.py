"""A folder of shards as one page to look at: `python -m datamodules.browse DIR --out page.html`.

Samples with their masks and texts, counts by edit type, how large images and how long texts are, bad samples by
reason. The page holds everything it shows and needs neither network nor script.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from datamodules import remote_index
from datamodules.audio import AudioSupportError
from datamodules.browse.page import page
from datamodules.browse.survey import Survey, survey
from datamodules.commands import OptionParser, interruptible, printable_output
from datamodules.schema import AttachmentSettings
from datamodules.shard_index import INCOMPLETE, INDEX_FILE, ShardIndex
from datamodules.storage import is_url
from datamodules.tar_index import ShardError


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 when written, 1 with one clear line when not."""
    parser = OptionParser(
        prog="python -m datamodules.browse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", help="folder of shards, its URL, or a folder of splits (then --split says which)")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument("--split", help="name of the folder below DIR to look at: train, val, ...")
    parser.add_argument("--limit", type=int, default=60, help="samples shown (default %(default)s)")
    parser.add_argument("--read", type=int, default=20_000, help="samples counted; 0: all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws which samples are shown (default %(default)s)")
    parser.add_argument("--index-directory", type=Path, help=f"where {INDEX_FILE} and the .idx files are, if elsewhere")
    limits = AttachmentSettings()
    help_text = "longest attached sound that is not bad (default %(default)s)"
    parser.add_argument("--audio-seconds", type=float, default=limits.audio_seconds, help=help_text)
    help_text = "most attachments of a sample that is not bad (default %(default)s)"
    parser.add_argument("--max-attachments", type=int, default=limits.max_attachments, help=help_text)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=min(cores, 8), help="processes that read (0: this one)")
    options = parser.parse_args(arguments)
    printable_output()
    if not 0 < options.audio_seconds < math.inf:
        parser.error(f"--audio-seconds: expected more than 0 seconds, found {options.audio_seconds}")
    for name in ("limit", "read", "workers", "max_attachments"):
        if getattr(options, name) < 0:
            parser.error(f"--{name.replace('_', '-')}: expected 0 or more, found {getattr(options, name)}")
    try:
        index = open_index(options.directory, options.split, options.index_directory)
        workers = 0 if is_url(options.directory) else options.workers  # forks lose the connections' thread
        limits = replace(limits, audio_seconds=options.audio_seconds, max_attachments=options.max_attachments)
        found = survey_with_bar(index, options.read, options.limit, options.seed, workers, limits)
        write_page(options.out, index, found, options.seed)
    except (ShardError, AudioSupportError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.out}: {found.read} samples read, {len(found.cards)} shown, {sum(found.bad.values())} bad")
    return 0


def open_index(directory: str, split: str | None, index_directory: Path | None = None) -> ShardIndex:
    """The index of a folder of shards or its URL, or of one split below it.

    Raises:
        ShardError: no shards there; where there are some in folders below, the line names these.
    """
    folder = directory if split is None else f"{directory.rstrip('/')}/{split}"
    splits = sorted(path.parent.name for path in Path(directory).glob(f"*/{INDEX_FILE}"))
    if splits and split not in splits and not (Path(index_directory or folder) / INDEX_FILE).is_file():
        raise ShardError(f"{folder}: expected {INDEX_FILE}, found none; choose with --split: {', '.join(splits)}")
    return remote_index.open_index(folder, index_directory)


def survey_with_bar(
    index: ShardIndex, read: int, shown: int, seed: int, workers: int, attachments: AttachmentSettings | None = None
) -> Survey:
    """The whole survey, with a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    found = Survey()
    # no thread that draws: the workers are forks of this process
    with Progress(*columns, auto_refresh=False) as progress:
        task = progress.add_task("reading", total=min(read or len(index), len(index)))
        for part in survey(index, read, shown, seed, workers, attachments):
            found.merge(part)
            progress.update(task, completed=found.read, refresh=True)
    return found


def write_page(path: Path, index: ShardIndex, found: Survey, seed: int) -> None:
    """Write the page of a survey."""
    write_pieces(path, page(str(index.directory), index, found, seed))


def write_pieces(path: Path, pieces: Iterable[str]) -> None:
    """Write a page under a temporary name, then rename it."""
    temporary = path.with_name(path.name + INCOMPLETE)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(pieces)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    with interruptible():
        sys.exit(main())
