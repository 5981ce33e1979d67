"""Convert a public dataset, in the layout in which it is published, into shards.

`python -m datamodules.convert NAME --source ... --out ...`; NAME --help shows a dataset's own options. OUT gets one
folder of shards a split and `conversion.json`, which says what was dropped and why. The same command again goes on
where a killed one stopped. The result is the same to the byte for any number of --workers.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.commands import OptionParser, printable_output
from datamodules.convert.converters import CONVERTERS

if TYPE_CHECKING:
    from datamodules.convert.source import Source


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 when converted, 1 with one clear line when not, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    printable_output()
    from datamodules.convert.source import ConversionError
    from datamodules.tar_index import ShardError

    try:
        report = convert_with_bar(CONVERTERS[options.name].build(options), options)
    except (ConversionError, ShardError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{options.out}: interrupted; the same command again goes on from here", file=sys.stderr)
        return 130
    _show(report, options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(
        prog="python -m datamodules.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, converter in CONVERTERS.items():
        of_name = names.add_parser(name, help=converter.help, description=converter.help)
        _add_common_options(of_name)
        converter.add_options(of_name)
    return parser


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", required=True, help="the dataset's folder; for parquet also a name on the hub")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result: one of shards a split")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=min(cores, 8), help="processes (default %(default)s)")
    parser.add_argument("--samples-per-shard", type=int, default=1000, help="about (default %(default)s)")
    parser.add_argument("--partial", action="store_true", help="a part of the dataset: expect no published totals")
    parser.add_argument("--licence", default="", help="of the dataset, for the card (README.md) of the result")
    parser.add_argument("--no-check", dest="check", action="store_false", help="do not decode each sample once")
    parser.add_argument("--no-space-check", dest="check_space", action="store_false", help="begin on a full disk too")


def convert_with_bar(source: Source, options: argparse.Namespace) -> dict[str, Any]:
    """The whole conversion, with a progress bar; returns its report.

    Raises:
        ConversionError, ShardError: as `engine.convert`.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from datamodules.convert.engine import Options, convert

    names = ("workers", "samples_per_shard", "check", "partial", "check_space", "licence")
    how = Options(**{name: getattr(options, name) for name in names})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(f"{source.name}: looking", total=None)

        def show(finished: int, total: int) -> None:
            progress.update(task, description=source.name, completed=finished, total=total)

        return convert(source, options.out, how, show)


def _show(report: dict[str, Any], out: Path) -> None:
    from rich.console import Console

    from datamodules.convert.report import REPORT_FILE, report_tables

    Console().print(report_tables(report))
    print(f"{out}: written; {out / REPORT_FILE} names what was dropped")


if __name__ == "__main__":
    sys.exit(main())
