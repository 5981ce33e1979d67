"""A paper's table, ours beside it: MGIE's numbers as published, and what committed evidence says of the same methods.

    python -m experiments.beside_paper [--root docs/evidence]

prints the two tables of docs/reproduce.md. The data are others (photographs there, the small world here) and so are the
metrics, so that no figure may be held against one of another column: what can be compared is which method is ahead.
Published numbers that nobody of us has read are left out, and the columns that have only such.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from rich.console import Console

from mmig.base.commands import OptionParser, one_line_errors
from mmig.evaluation.bootstrap import paired_difference
from mmig.evaluation.protocol import read_protocol
from mmig.evaluation.rows import by_key, read_rows
from mmig.metrics.published_numbers import PublishedRow
from mmig.metrics.suite import METRICS

PAPER, SETTING, MEASURE = "mgie", "zero-shot", "joint"
"""The protocol; its rows of methods that were trained on one data set alone, as ours were; our measure."""
LESS = "less is better"
PARTS = ("visual", "inferable")
"""Of ours: instructions that only the picture explains, and those that only language does."""


@dataclass(frozen=True)
class Method:
    """A method of both tables: its name in the paper, its row of configs/results/mgie, and training seeds."""

    printed: str
    row: str
    seeds: tuple[int, ...] = (0, 1, 2)

    def scores(self, part: str, root: Path, seeds: Sequence[int] = ()) -> dict[str, float]:
        """By sample key the mean of the measure over training seeds (default: all); {} where one was not evaluated."""
        files = [root / f"runs/mgie-{self.row}-{seed}/{part}/samples.jsonl" for seed in seeds or self.seeds]
        if not all(file.is_file() for file in files):
            return {}
        of_seeds = [by_key(read_rows(file), MEASURE) for file in files]
        return {key: mean(scores[key] for scores in of_seeds) for key in of_seeds[0]}


INSTRUCT_PIX2PIX, LGIE, MGIE = Method("InsPix2Pix", "instruct_pix2pix"), Method("LGIE", "lgie"), Method("MGIE", "mgie")
WITHOUT = Method("MGIE without L_ins", "no_l_ins", seeds=(0,))
METHODS = (INSTRUCT_PIX2PIX, LGIE, MGIE, WITHOUT)
PAIRS = ((MGIE, LGIE, "visual"), (LGIE, INSTRUCT_PIX2PIX, "inferable"), (MGIE, WITHOUT, "visual"))
"""What is said to be ahead of what, and where ours were compared."""


def published_rows() -> dict[str, PublishedRow]:
    """The paper's rows by method."""
    table = read_protocol(PAPER).table
    assert table is not None
    return {row.method: row for row in table.rows if row.setting == SETTING}


def read_columns(rows: Mapping[str, PublishedRow]) -> dict[str, str]:
    """Columns of which every number in these rows was read -> their printed names, marked where lower is better."""
    protocol = read_protocol(PAPER)
    metrics = {name: column.metric for part in protocol.parts for name, column in part.columns.items()}
    lower = {name for name, metric in metrics.items() if not METRICS[metric]().higher_is_better}
    printed = protocol.table.metrics if protocol.table else {}
    kept = [name for name in printed if all(row.is_verified(name) for row in rows.values() if name in row.values)]
    return {name: f"{printed[name]}, {LESS}" if name in lower else printed[name] for name in kept}


def values_table(root: Path) -> str:
    """A line a method: our figures in per cent, then the paper's."""
    rows = published_rows()
    columns = read_columns(rows)
    lines = [["", *(f"here: *{part}*" for part in PARTS), *columns.values()], ["---", *["---:"] * (len(columns) + 2)]]
    for method in METHODS:
        theirs = [_as_printed(rows[method.printed], name) for name in columns]
        ours = [method.scores(part, root) for part in PARTS]
        told = [f"**{100 * mean(scores.values()):.1f}**" if scores else "-" for scores in ours]
        lines.append([method.printed, *told, *theirs])
    return _markdown(lines)


def order_table(root: Path) -> str:
    """A line a comparison: in how many of the paper's figures the first is ahead, and by how many points it is here."""
    rows = published_rows()
    columns = read_columns(rows)
    lines = [["", "in the paper", "here, points of `joint` [95 %]", "samples, training seeds"], ["---"] * 4]
    for first, second, part in PAIRS:
        one, other = (rows[method.printed].values for method in (first, second))
        both = [name for name in columns if name in one and name in other]
        ahead = sum((one[name] < other[name]) == columns[name].endswith(LESS) for name in both)
        seeds = [seed for seed in first.seeds if seed in second.seeds]
        theirs = [f"{first.printed} ahead of {second.printed}", f"{ahead} of {len(both)} figures"]
        scores = [method.scores(part, root, seeds) for method in (first, second)]
        ours = ["-", "-"]
        if all(scores):
            found = paired_difference(*scores)
            ours = [f"*{part}*: **{found.told('+.1f', 100)}**", f"{found.n}, {len(seeds)}"]
        lines.append([*theirs, *ours])
    return _markdown(lines)


def _as_printed(row: PublishedRow, column: str) -> str:
    """Two decimals of what is times 100, three of the rest."""
    value = row.values.get(column)
    return "-" if value is None else f"{value:.{2 if value > 1 else 3}f}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(arguments: list[str] | None = None) -> None:
    """Print both tables."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, default=Path("docs/evidence"), help="folder with runs/ (default: docs/evidence)"
    )
    options = parser.parse_args(arguments)
    with one_line_errors():
        if not (options.root / "runs").is_dir():
            raise ValueError(f"--root {options.root}: expected a folder with runs/, such as docs/evidence of a clone")
        tables = f"{values_table(options.root)}\n\n{order_table(options.root)}"
    Console().print(tables, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
