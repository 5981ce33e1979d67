"""The table of an evaluation or a comparison as Markdown and as LaTeX (booktabs), from the same cells."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmig.evaluation.bootstrap import Interval
from mmig.evaluation.finished import Finished
from mmig.evaluation.summary import interval_of

MARK = "*"
"""Beside a difference whose interval excludes zero."""
_TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


@dataclass(frozen=True)
class Grid:
    """Headings and as many cells in every row; the first column names the row."""

    headings: list[str]
    rows: list[list[str]]


def cell(interval: Interval, signed: bool = False) -> str:
    """A value with its bounds, "0.512 [0.480, 0.540]"; "-" where nothing was counted."""
    spec = f"{'+' if signed else ''}.{interval.digits}f"
    return interval.told(spec) if interval.n else "-"


def difference_cell(interval: Interval) -> str:
    """A difference with its bounds, marked where they exclude zero."""
    return cell(interval, signed=True) + (MARK if interval.excludes_zero else "")


def metric_grid(
    evaluations: Sequence[Finished], differences: Mapping[str, Mapping[str, Interval]] | None = None
) -> Grid:
    """One row a metric of the first evaluation: value, interval and n of all, then the differences to the first.

    Args:
        evaluations: systems of the columns.
        differences: system -> metric -> its value minus the first system's.
    """
    differences, first = differences or {}, evaluations[0]
    headings = ["metric"]
    for evaluation in evaluations:
        headings += [evaluation.name, "n"]
    for name in differences:
        headings += [f"{name} - {first.name}", "n"]
    rows = []
    for metric, value in first.report["metrics"].items():
        row = [f"{metric} {'↑' if value.get('higher_is_better', True) else '↓'}"]
        for evaluation in evaluations:
            row += _with_count(evaluation.report["metrics"].get(metric))
        for of_system in differences.values():
            found = of_system.get(metric)
            row += ["-", "0"] if found is None else [difference_cell(found), str(found.n)]
        rows.append(row)
    return Grid(headings, rows)


def _with_count(value: Mapping[str, Any] | None) -> list[str]:
    return ["-", "0"] if value is None else [cell(interval_of(value)), str(value["n"])]


def markdown(grid: Grid, caption: str) -> str:
    """The table in Markdown, the caption below it."""
    lines = [grid.headings, ["---", *["---:"] * (len(grid.headings) - 1)], *grid.rows]
    table = "\n".join(f"| {' | '.join(_in_markdown(text) for text in line)} |" for line in lines)
    return f"{table}\n\n{caption}\n"


def latex(grid: Grid, caption: str) -> str:
    """The table as a `tabular` of booktabs, the caption in comments before it."""
    columns = "l" + "r" * (len(grid.headings) - 1)
    lines = [
        *(f"% {line}" for line in caption.splitlines()),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(in_latex, grid.headings)) + r" \\",
        r"\midrule",
        *(" & ".join([in_latex(row[0]), *map(_number, row[1:])]) + r" \\" for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def in_latex(text: str) -> str:
    """A text whose characters LaTeX prints as they are."""
    return "".join(_TEX.get(character, character) for character in text)


def _number(text: str) -> str:
    return re.sub(r"-(?=\d)", "$-$", text).replace(MARK, "$^{*}$")


def _in_markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace(MARK, "\\*")
