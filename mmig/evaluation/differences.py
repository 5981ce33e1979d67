"""Paired differences of several evaluations to the first one, and as a table on the terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mmig.evaluation.bootstrap import Interval
from mmig.evaluation.finished import Finished
from mmig.evaluation.summary import compare, compare_types

if TYPE_CHECKING:
    from rich.table import Table

ALL = "all samples"
"""Beside the names of edit types: all samples."""
Differences = Mapping[str, Mapping[str, Mapping[str, Interval]]]
"""System -> metric -> edit type, or `ALL` -> its value minus the first system's."""


def all_differences(evaluations: Sequence[Finished]) -> Differences:
    """Paired differences of every further evaluation to the first one, seeds averaged before."""
    first = evaluations[0]
    differences = {}
    for other in evaluations[1:]:
        by_type = compare_types(other.rows, first.rows)
        whole = compare(other.rows, first.rows)
        differences[other.name] = {metric: {ALL: whole[metric], **by_type.get(metric, {})} for metric in whole}
    return differences


def difference_table(differences: Mapping[str, Interval], title: str) -> "Table":
    """Paired differences by name, with a mark where the interval excludes zero; "-" where there is no interval."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for heading, justify in (("", "left"), ("difference [95 % interval]", "right"), ("n", "right"), ("zero", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for name, interval in differences.items():
        zero = ("excluded" if interval.excludes_zero else "inside") if interval.is_known else "-"
        table.add_row(name, interval.told("+.4f"), str(interval.n), zero)
    return table
