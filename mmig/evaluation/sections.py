"""From evaluations that have ended to the tables of an overview."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmig.evaluation.bootstrap import Interval
from mmig.evaluation.overview import Evaluated, Heading, OwnRow, PublishedValues, Section
from mmig.evaluation.protocol import Column, Part, Protocol, deviations
from mmig.evaluation.summary import interval_of


def section(protocol: Protocol | None, part: Part | None, evaluated: Sequence[Evaluated]) -> Section:
    """The table of a data set."""
    scored = dict.fromkeys(name for each in evaluated for name in each.report["metrics"])
    columns = {} if part is None else dict(part.columns)
    taken = {column.metric for column in columns.values()}
    own = {name: Column(name) for name in scored if name not in taken}
    of_all = {**columns, **own}
    table = protocol.table if protocol else None
    printed = table.metrics if table else {}
    headings = [Heading(column.metric, printed.get(name, ""), column.times) for name, column in of_all.items()]
    naming, names = _names(evaluated)
    ours = [
        OwnRow(
            name,
            each.folder,
            [_scaled(each.report["metrics"].get(found.metric), found.times) for found in of_all.values()],
        )
        for name, each in zip(names, evaluated, strict=True)
    ]
    theirs: list[PublishedValues] = []
    reasons: list[str] = []
    if protocol and part and table:
        theirs = [
            PublishedValues(f"{row.method} ({row.setting})", row.source, [_published(row, name) for name in of_all])
            for row in table.rows
            if row.setting in part.settings and row.values.keys() & columns.keys()
        ]
        reasons = sorted({reason for each in evaluated for reason in deviations(protocol, part, each.report)})
    return Section(
        part.name if part else "",
        naming,
        headings,
        ours,
        theirs,
        reasons,
        part.curve if part else None,
        list(evaluated),
    )


def _names(evaluated: Sequence[Evaluated]) -> tuple[str, list[str]]:
    """What tells the rows apart, and the name of each: systems, points of a grid, or both."""
    several = len({each.system for each in evaluated}) > 1 or not evaluated[0].point
    naming = [*(["system"] if several else []), *evaluated[0].point]
    names = [", ".join([*([each.system] if several else []), *map(str, each.point.values())]) for each in evaluated]
    return ", ".join(naming), names


def _scaled(value: Mapping[str, Any] | None, times: float) -> Interval | None:
    if value is None or value["value"] is None:
        return None
    found = interval_of(value)
    return Interval(found.value * times, found.low * times, found.high * times, found.n)


def _published(row: Any, name: str) -> str:
    return f"{row.values[name]:g}{'' if row.is_verified(name) else '?'}" if name in row.values else "-"


def notes_of(protocol: Protocol | None) -> list[str]:
    """What holds for the whole overview."""
    if protocol is None:
        return []
    told = [*protocol.notes, *(f"not reproduced: {name}" for name in protocol.not_reproduced)]
    if protocol.table and not all(row.is_verified(name) for row in protocol.table.rows for name in row.values):
        told.append('"?": nobody of us has read this number, neither in its paper nor in notes on it')
    return told
