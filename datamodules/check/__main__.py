"""Whether data can be trained on, before any model loads: `python -m datamodules.check DATA --out page.html`.

DATA is a folder of shards or its URL, a folder of splits of them, a YAML with a section `data`, or a plain folder of
pairs (a table of source, target and instruction; source/NAME and target/NAME; or NAME.source.png and NAME.target.png).
What is looked at: pairs, texts, sizes, duplicates, files that cannot be read, pictures that are in two splits. Nothing
is written but the page. The exit status is 1 where a training would stop.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.audio import AudioSupportError
from datamodules.browse.__main__ import write_pieces
from datamodules.check.opening import Opened, Part, open_data
from datamodules.check.page import page
from datamodules.check.study import Study
from datamodules.check.tokens import open_length
from datamodules.check.verdict import Finding, leaks, verdict
from datamodules.commands import OptionParser, interruptible, printable_output
from datamodules.sample import IMAGE_FIELDS, MASK_FIELDS, TEXT_FIELDS
from datamodules.storage import without_secrets

FIELDS = (*IMAGE_FIELDS, *MASK_FIELDS, *TEXT_FIELDS)
STYLES = {"fine": "", "look": "yellow", "stops": "bold red"}
ALL_SPLITS = "all splits"
Told = dict[str, list[Finding]]


def main(arguments: list[str] | None = None) -> int:
    """Look, say it; 1 where a training would stop, or nothing can be looked at."""
    options = _parser().parse_args(arguments)
    printable_output()
    try:
        found = open_data(options.data, options.table)
        told, studies = examine(found, options)
        if options.out is not None:
            write_pieces(options.out, page(without_secrets(options.data), told, studies))
    except (ValueError, AudioSupportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(without_secrets(options.data), told)
    if options.out is not None:
        print(f"{options.out}: written")
    stops = [split for split, findings in told.items() if any(finding.state == "stops" for finding in findings)]
    print(f"a training on {', '.join(stops)} would stop" if stops else "nothing here would stop a training")
    return int(bool(stops))


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="python -m datamodules.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="folder, URL or YAML; see above")
    parser.add_argument("--out", type=Path, help="a page to write: what is not right, and some samples")
    parser.add_argument("--table", type=Path, help="table of a folder of pictures, if elsewhere or one of several")
    parser.add_argument("--limit", type=_natural, default=2000, help="samples of a split; 0: all (default %(default)s)")
    parser.add_argument("--seed", type=_natural, default=0, help="draws which ones (default %(default)s)")
    parser.add_argument("--resolution", type=_natural, help="side of training pictures (default: the YAML's)")
    parser.add_argument(
        "--needs", nargs="+", default=[], choices=FIELDS, metavar="FIELD", help="that some sample must have"
    )
    parser.add_argument("--tokenizer", help="folder or hub id of a tokenizer, by which the length of texts is counted")
    parser.add_argument("--max-tokens", type=_natural, help="longest text (default: what the tokenizer says)")
    parser.add_argument(
        "--max-bad-fraction", type=_share, help="of samples that cannot be used (default: the YAML's, or 0.01)"
    )
    return parser


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, found {text}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1 or math.isnan(value):
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text}")
    return value


def examine(found: Opened, options: argparse.Namespace) -> tuple[Told, dict[str, Study]]:
    """Read the samples of every split; what is said of each, and the studies behind it."""
    length, most_tokens = open_length(options.tokenizer, options.max_tokens)
    bad = next(value for value in (options.max_bad_fraction, found.max_bad_fraction, 0.01) if value is not None)
    told, studies = Told(), dict[str, Study]()
    for part in found.parts:
        if part.absent:
            told[part.name] = [Finding("samples", f"{part.place}: {part.absent}", _absence(part))]
            continue
        expected = min(options.limit or part.total, part.total)
        resolution = options.resolution or found.resolution
        study = Study(resolution, length, most_tokens, options.seed, expected=expected)
        studies[part.name] = study.add(part.read(options.limit, options.seed))
        told[part.name] = [*_whole(part, study), *verdict(study, options.needs, bad)]
    if shared := leaks(studies):
        told[ALL_SPLITS] = shared
    return told, studies


def _absence(part: Part) -> str:
    """Shards that a program writes by itself are no fault."""
    return "fine" if "first used" in part.absent else "stops"


def _whole(part: Part, study: Study) -> list[Finding]:
    whole = "all" if study.survey.read >= part.total else f"{study.survey.read:,} spread evenly"
    first = Finding("place", f"{part.place}: {part.total:,} samples, looked at: {whole}")
    return [first, *(Finding("beside", words, "look", "nothing is made of them") for words in part.beside)]


def show(title: str, told: Mapping[str, Sequence[Finding]]) -> None:
    """Print a table a split."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for split, findings in told.items():
        table = Table(title=escape(f"{title}: {split}"), title_justify="left", title_style="bold", show_lines=False)
        for heading in ("what", "", "found", "what to do"):
            table.add_column(heading, overflow="fold")
        for finding in findings:
            cells = (finding.name, "" if finding.state == "fine" else finding.state, finding.found, finding.advice)
            table.add_row(*map(escape, cells), style=STYLES[finding.state])
        console.print(table)


if __name__ == "__main__":
    with interruptible():
        sys.exit(main())
