"""Evaluations of one command in one table a data set, with the published numbers where these may stand there."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mmig.evaluation.bootstrap import Interval
from mmig.evaluation.page.tables import cell
from mmig.evaluation.summary import interval_dict

PUBLISHED = "published"


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of an overview.

    Attributes:
        system: what was scored.
        folder: its folder, below that of the overview.
        report: content of its metrics.json.
        point: the grid's settings; {} without a grid.
    """

    system: str
    folder: str
    report: Mapping[str, Any]
    point: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Heading:
    """Of a column.

    Attributes:
        metric: our name of what stands there.
        printed: the paper's; "" where it has none.
        times: what ours is multiplied with.
    """

    metric: str
    printed: str = ""
    times: float = 1.0

    @property
    def short(self) -> str:
        """As the paper has it, or we if it has no name for it."""
        return self.printed or self.metric

    @property
    def full(self) -> str:
        """Both."""
        times = "" if self.times == 1 else f", times {self.times:g}"
        return f"{self.printed} ({self.metric}{times})" if self.printed else self.metric


@dataclass(frozen=True)
class OwnRow:
    """Ours: an interval a column, None where nothing was scored."""

    name: str
    folder: str
    values: list[Interval | None]


@dataclass(frozen=True)
class PublishedValues:
    """Somebody's: a text a column, with "?" where nobody of us has read the number anywhere."""

    name: str
    source: str
    values: list[str]


@dataclass(frozen=True)
class Section:
    """A data set.

    Attributes:
        title: its name, "" where the command has but one.
        naming: what names the rows.
        headings: of the columns.
        ours: a row an evaluation.
        theirs: published rows.
        reasons: why theirs may not be compared with ours; [] where they may.
        curve: metrics (across, up) that the grid is drawn by.
        evaluated: what `ours` comes from.
    """

    title: str
    naming: str
    headings: list[Heading]
    ours: list[OwnRow]
    theirs: list[PublishedValues]
    reasons: list[str]
    curve: tuple[str, str] | None
    evaluated: list[Evaluated]


def own_mean(interval: Interval | None) -> str:
    """The value alone; "-" for nothing."""
    return "-" if interval is None else f"{interval.value:.{interval.digits}f}"


def own_cell(interval: Interval | None) -> str:
    """As "0.512 [0.480, 0.540]"; "-" for nothing."""
    return "-" if interval is None else cell(interval)


def markdown(title: str, sections: Sequence[Section], notes: Sequence[str], command: str) -> str:
    """All tables in Markdown."""
    lines = [f"# {title}", ""]
    for one in sections:
        full, rule = [heading.full for heading in one.headings], ["---", *["---:"] * len(one.headings)]
        theirs = [[row.name, *row.values] for row in one.theirs]
        lines += [f"## {one.title}", ""] if one.title else []
        lines += [_line([one.naming, *full, "n"]), _line([*rule, "---:"])]
        lines += [_line([row.name, *map(own_cell, row.values), str(count(row))]) for row in one.ours]
        if one.reasons and theirs:
            told = f"Published, not to be compared with the above: {'; '.join(one.reasons)}."
            lines += ["", told, "", _line(["method", *full]), _line(rule), *map(_line, theirs)]
        else:
            lines += [_line([*row, PUBLISHED]) for row in theirs]
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in notes), "", f"Made by: `{command}`", ""])


def count(row: OwnRow) -> int:
    """The most samples that a value of a row rests on."""
    return max((interval.n for interval in row.values if interval is not None), default=0)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def as_json(title: str, sections: Sequence[Section], notes: Sequence[str], command: str) -> dict[str, Any]:
    """Content of overview.json."""
    return {"title": title, "command": command, "notes": list(notes), "parts": [_of_section(one) for one in sections]}


def _of_section(one: Section) -> dict[str, Any]:
    metrics = [heading.metric for heading in one.headings]
    return {
        "name": one.title,
        "columns": [asdict(heading) for heading in one.headings],
        "evaluations": [
            {
                "system": each.system,
                "folder": each.folder,
                "point": dict(each.point),
                "values": {
                    metric: None if interval is None else interval_dict(interval)
                    for metric, interval in zip(metrics, row.values, strict=True)
                },
            }
            for each, row in zip(one.evaluated, one.ours, strict=True)
        ],
        "published": {row.name: dict(zip(metrics, row.values, strict=True)) for row in one.theirs},
        "comparable": bool(one.theirs) and not one.reasons,
        "reasons": one.reasons,
    }
