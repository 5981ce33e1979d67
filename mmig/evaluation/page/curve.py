"""Two metrics against each other over a grid of sampling settings: lines along the last setting, of each system."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmig.evaluation.bootstrap import Interval
from mmig.evaluation.overview import Evaluated
from mmig.evaluation.page.figures import AXES, BOTTOM, HEIGHT, LEFT, RIGHT, SHAPES, TOP, WIDTH, Axis, axis, letter_of
from mmig.evaluation.summary import interval_of

ROOM = (24, 14)
"""Pixels that the words at a point need, across and up."""


@dataclass(frozen=True)
class Stop:
    """A point of a line: the grid's values ("" where other words stand there), what was measured there, and where it is
    drawn.
    """

    label: str
    across: Interval
    up: Interval
    x: float
    y: float


@dataclass(frozen=True)
class Line:
    """One system, at one value of every setting of the grid but the last."""

    letter: str
    name: str
    shape: str
    stops: list[Stop]

    @property
    def path(self) -> str:
        """Of the SVG."""
        return "M" + "L".join(f"{stop.x} {stop.y}" for stop in self.stops)


@dataclass(frozen=True)
class Curve:
    """All lines; `setting` names what changes along them, the last of the grid."""

    names: tuple[str, str]
    setting: str
    x_axis: Axis
    y_axis: Axis
    lines: list[Line]


def curve(evaluated: Sequence[Evaluated], names: tuple[str, str] | None = None) -> Curve | None:
    """The curve of a grid; None without a grid, or where the metrics have no value.

    Args:
        evaluated: in the order of the grid.
        names: metrics (across, up); None for the first pair of `figures.AXES` that all have.
    """
    pairs = AXES if names is None else (names,)
    chosen = next((pair for pair in pairs if all(_has(each, pair) for each in evaluated)), None)
    if chosen is None or not all(each.point for each in evaluated):
        return None
    found = {id(each): tuple(interval_of(each.report["metrics"][name]) for name in chosen) for each in evaluated}
    x_axis = axis([pair[0].value for pair in found.values()], LEFT, WIDTH - RIGHT)
    y_axis = axis([pair[1].value for pair in found.values()], HEIGHT - BOTTOM, TOP)
    together: dict[str, list[Evaluated]] = {}
    for each in evaluated:
        together.setdefault(_line_name(each), []).append(each)
    lines, labelled = [], list[tuple[float, float]]()
    for number, (name, members) in enumerate(together.items()):
        stops = []
        for each in members:
            across, up = found[id(each)]
            place = x_axis(across.value), y_axis(up.value)
            is_free = all(abs(place[0] - x) > ROOM[0] or abs(place[1] - y) > ROOM[1] for x, y in labelled)
            label = str([*each.point.values()][-1]) if is_free else ""
            labelled += [place] if is_free else []
            stops.append(Stop(label, across, up, *place))
        lines.append(Line(letter_of(number), name, SHAPES[number % len(SHAPES)], stops))
    return Curve(chosen, [*evaluated[0].point][-1], x_axis, y_axis, lines)


def _line_name(each: Evaluated) -> str:
    """The system and what does not change along its line."""
    return ", ".join([each.system, *(f"{name} {value}" for name, value in [*each.point.items()][:-1])])


def _has(each: Evaluated, names: Sequence[str]) -> bool:
    return all(each.report["metrics"].get(name, {}).get("n") for name in names)
