"""Tables over chains of five stages that `experiments.chain_demo` trained and evaluated: one, or several seeds of it.

    python -m experiments.chain_report chain-0 chain-1 chain-2 [--markdown]

"no MMSM" is stage 5 without its mutual support module, "baseline" the same UNet trained for as many steps on the
instruction alone. Every value is a mean over edits with its 95 % interval; the unit that is resampled is the test
sample, and each sample counts with its mean over the chains (training seeds) and sampling seeds.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mmig.base.commands import OptionParser, one_line_errors
from mmig.evaluation.bootstrap import Interval, mean_interval, paired_difference
from mmig.evaluation.rows import SampleRow, by_key, read_rows

SHARES = {"success": "success", "preservation": "preservation", "response_accuracy": "z_d", "caption_accuracy": "d_new"}
"""Shown in per cent; z_d and d_new: responses and captions that are right in everything they say, by the judge."""
CLIP = {"clip_directional_similarity": "CLIP-dir", "clip_score": "CLIP score"}
METRICS = (*SHARES, *CLIP)
TRAINS_UNET = (3, 4, 5)
NUM_STAGES = 5


@dataclass(frozen=True)
class Row:
    """One row of the tables: a run (below runs/, its name begins with the chain's), and how it is sampled."""

    title: str
    run: str
    responses: str | None = None
    settings: tuple[str, ...] = ()

    def run_directory(self, chain: str) -> str:
        """The run in a chain."""
        return f"runs/{chain}-{self.run}"

    def folder(self, chain: str) -> str:
        """Where its evaluation goes."""
        name = "-".join([part for part in (self.responses, *self.settings) if part] or ["edits"])
        return f"{self.run_directory(chain)}/evaluation/{name.replace('=', '-')}"

    @property
    def sampling(self) -> list[str]:
        """Arguments of evaluate.py."""
        settings = [f"response={self.responses}"] if self.responses else []
        settings += self.settings
        return ["--sampling", *settings] if settings else []


ROWS = [
    *(
        Row(f"stage {stage}", f"stage{stage}", responses)
        for stage in range(1, NUM_STAGES + 1)
        for responses in ("given", "generated")
    ),
    *(Row("no MMSM", f"stage{NUM_STAGES}", responses, ("use_mmsm=false",)) for responses in ("given", "generated")),
    Row("baseline", f"instruction{TRAINS_UNET[-1]}"),
]
FIRST, LAST, BASELINE = ROWS[1], ROWS[2 * NUM_STAGES - 1], ROWS[-1]


class Chains:
    """The evaluations of one or more chains, by row.

    Args:
        names: names of the chains, as given to `experiments.chain_demo --name`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.rows = cache(self._rows)

    def _rows(self, row: Row) -> list[SampleRow]:
        return [edit for name in self.names for edit in read_rows(Path(row.folder(name)) / "samples.jsonl")]

    def values(self, row: Row, metric: str, edit_type: str | None = None) -> dict[str, float]:
        """Value of each test sample, over all edits or those of one type."""
        return by_key((edit for edit in self.rows(row) if edit_type in (None, edit.edit_type)), metric)

    def edit_types(self) -> list[str]:
        """All types of edits."""
        return sorted({edit.edit_type for edit in self.rows(LAST)})


def metric_table(chains: Chains, columns: Mapping[str, str], percent: bool, table: Table) -> Table:
    """Some metrics of every row, with intervals."""
    for title in ("", "response", *columns.values()):
        table.add_column(title, justify="right" if title in columns.values() else "left")
    for row in ROWS:
        cells = []
        for metric in columns:
            interval = mean_interval(np.array([*chains.values(row, metric).values()]))
            cells.append(format_interval(interval, percent))
        table.add_row(row.title, row.responses or "-", *cells)
    return table


def type_table(chains: Chains, metric: str, table: Table) -> Table:
    """One metric in per cent by edit type: given, then generated responses."""
    titles = list(dict.fromkeys(row.title for row in ROWS))
    for title in ("", "n", *titles):
        table.add_column(title, justify="right" if title else "left")
    for kind in chains.edit_types():
        found = {row: [*chains.values(row, metric, kind).values()] for row in ROWS}
        cells = [
            " / ".join(f"{100 * np.mean(found[row]):.0f}" for row in ROWS if row.title == title and found[row])
            for title in titles
        ]
        table.add_row(kind, str(len(found[LAST])), *cells)
    return table


def aim_table(chains: Chains, table: Table) -> Table:
    """What the last stage has before stage 1 and before the UNet that reads the instruction, in points, paired."""
    for title in ("with generated responses, in points", "difference [95 % interval]", "n"):
        table.add_column(title, justify="left" if title.startswith("with") else "right")
    for metric, kind in (("success", None), ("success", "visual"), ("preservation", None)):
        for other in (FIRST, BASELINE):
            one, two = (chains.values(row, metric, kind) for row in (LAST, other))
            if not one:
                continue
            interval = paired_difference(one, two)
            what = f"{metric}{f' of {kind} edits' if kind else ''}: {LAST.title} - {other.title}"
            table.add_row(what, points(interval), str(interval.n))
    return table


def format_interval(interval: Interval, percent: bool) -> str:
    """Mean and interval, "20 [13, 27]" in per cent or "0.45 [0.38, 0.52]"; "-" where nothing was counted."""
    if interval.n == 0:
        return "-"
    scale, digits = (100, 0) if percent else (1, 2)
    return interval.told(f".{digits}f", scale)


def points(interval: Interval) -> str:
    """A difference of shares with its interval, in points of a per cent."""
    return interval.told("+.1f", 100)


def new_table(title: str, markdown: bool) -> Table:
    """A table without frame, narrow enough for a terminal, or as Markdown."""
    style = {"box": box.MARKDOWN} if markdown else {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
    return Table(title=f"\n{title}", title_justify="left", title_style="bold", **style)


def tables(chains: Chains, markdown: bool = False) -> list[Table]:
    """All tables, narrow enough for 80 columns, or as Markdown."""
    by_type = "by edit type, in per cent: given / generated"
    return [
        metric_table(chains, SHARES, True, new_table("In per cent; mean [95 % interval]", markdown)),
        metric_table(chains, CLIP, False, new_table("CLIP; mean [95 % interval]", markdown)),
        type_table(chains, "success", new_table(f"Success {by_type}", markdown)),
        type_table(chains, "preservation", new_table(f"Preservation {by_type}", markdown)),
        aim_table(chains, new_table("What the five stages bring", markdown)),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Print the tables of some chains."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "chains", nargs="+", help="names given to `experiments.chain_demo --name`; their samples are averaged"
    )
    parser.add_argument("--markdown", action="store_true", help="tables for a document")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=200 if options.markdown else None)
    with one_line_errors():
        for table in tables(Chains(options.chains), options.markdown):
            console.print(table)


if __name__ == "__main__":
    main()
