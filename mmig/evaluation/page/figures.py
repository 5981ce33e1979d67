"""Places of what the page's SVG figures show, in pixels of their view boxes; the templates draw it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmig.evaluation.bootstrap import Interval
from mmig.evaluation.finished import Finished
from mmig.evaluation.page.found import common_metrics
from mmig.evaluation.summary import interval_of

AXES = (("preservation", "success"), ("clip_image_similarity_input", "clip_directional_similarity"))
"""Pairs of metrics (across, up) of the scatter: the first pair that there is."""
WIDTH, HEIGHT = 440, 340
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 46
STRIP = 220
"""Width of a row of a forest plot."""
SHAPES = ("circle", "square", "triangle", "diamond")
_LABEL = 15
"""Room that a letter needs."""


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to pixels.

    Attributes:
        low, high: the values at its ends.
        start, end: their pixels.
        ticks: round values between them.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """The pixel of a value, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def label(self, tick: float) -> str:
        """A tick with as many digits as tell it from its neighbours."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else self.high - self.low
        return f"{tick:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def axis(values: Iterable[float], start: float, end: float, num_ticks: int = 5) -> Axis:
    """An axis that holds all finite values, with round ends."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    rough = (high - low) / num_ticks
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 10) + 0.0 for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], start, end, ticks)


@dataclass(frozen=True)
class Point:
    """One system of the scatter: values with intervals, their pixels, its letter and where this stands."""

    letter: str
    name: str
    role: str
    shape: str
    across: Interval
    up: Interval
    x: float
    y: float
    bars: tuple[float, float, float, float] | None
    label: tuple[float, float]


@dataclass(frozen=True)
class Scatter:
    """Two metrics of all systems against each other; `missing` says of each that lacks one what it has."""

    names: tuple[str, str]
    x_axis: Axis
    y_axis: Axis
    points: list[Point]
    missing: list[str]


def scatter(evaluations: Sequence[Finished], metrics: Sequence[str]) -> Scatter | None:
    """Success against preservation, or CLIP's direction against its image similarity; None without either pair.

    Args:
        evaluations: systems, lettered A, B and so on.
        metrics: from these the pair is chosen.
    """
    names = next((pair for pair in AXES if set(pair) <= set(metrics)), None)
    if names is None:
        return None
    drawn = [each for each in evaluations if set(names) <= set(common_metrics([each]))]
    found = [[interval_of(each.report["metrics"][name]) for name in names] for each in drawn]
    shares = [0.0, 1.0] if names == AXES[0] else []
    ends = [
        [end for pair in found for end in (pair[side].value, pair[side].low, pair[side].high)] + shares
        for side in (0, 1)
    ]
    x_axis, y_axis = axis(ends[0], LEFT, WIDTH - RIGHT), axis(ends[1], HEIGHT - BOTTOM, TOP)
    places = [(x_axis(across.value), y_axis(up.value)) for across, up in found]
    points = []
    for each, (across, up), (x, y) in zip(drawn, found, places, strict=True):
        number = evaluations.index(each)
        known = across.is_known and up.is_known
        bars = (x_axis(across.low), x_axis(across.high), y_axis(up.low), y_axis(up.high)) if known else None
        taken = [point.label for point in points] + [place for place in places if place != (x, y)]
        label = _free_place(x, y, taken)
        shape = SHAPES[number % len(SHAPES)]
        points.append(Point(letter_of(number), each.name, each.role, shape, across, up, x, y, bars, label))
    missing = [_why_missing(each, names) for each in evaluations if each not in drawn]
    return Scatter(names, x_axis, y_axis, points, missing)


def _why_missing(evaluation: Finished, names: Sequence[str]) -> str:
    """What of two metrics an evaluation has, and why it lacks the other."""
    told = []
    for name in names:
        value = evaluation.report["metrics"].get(name, {"n": 0, "skipped": {}})
        skipped = ", ".join(f"{reason} {count}" for reason, count in value["skipped"].items())
        known = f"{name} {interval_of(value).value:.3f}, n {value['n']}" if value["n"] else f"no {name}"
        told.append(f"{known} ({skipped})" if skipped and not value["n"] else known)
    role = f" ({evaluation.role})" if evaluation.role else ""
    return f"{evaluation.name}{role} is not drawn: {'; '.join(told)}"


def letter_of(number: int) -> str:
    """A for 0, B for 1 and so on, A2 after Z."""
    return chr(ord("A") + number % 26) + (str(number // 26 + 1) if number >= 26 else "")


def _free_place(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Beside a point where no other label or point is, inside of the figure."""
    sides = [(12, -10), (-12, -10), (12, 12), (-12, 12), (0, -18), (0, 20), (24, 0), (-24, 0)]
    places = [(round(x + right, 1), round(y + down, 1)) for right, down in sides]
    inside = [
        place
        for place in places
        if LEFT + 6 < place[0] < WIDTH - RIGHT - 4 and TOP + 6 < place[1] < HEIGHT - BOTTOM - 4
    ]
    free = (place for place in inside if all(math.dist(place, other) >= _LABEL for other in taken))
    return next(free, inside[0] if inside else places[0])


@dataclass(frozen=True)
class Strip:
    """One row of a forest plot: an edit type and an interval with its pixels."""

    edit_type: str
    letter: str
    name: str
    shape: str
    interval: Interval
    x: float
    ends: tuple[float, float] | None


@dataclass(frozen=True)
class Forest:
    """One metric by edit type; `line` is where zero, or the value of all samples, lies."""

    metric: str
    axis: Axis
    line: float
    strips: list[Strip]
    systems: list[str]


def forest(metric: str, systems: Mapping[str, Mapping[str, Interval]], names: Sequence[str], zero: bool) -> Forest:
    """Rows of all samples and of every edit type, with one strip a system.

    Args:
        metric: what is shown.
        systems: name -> edit type, of which the first stands for all samples -> interval.
        names: all systems of the page, by whose order they have their letters.
        zero: whether these are differences, so that zero must be there.
    """
    intervals = [interval for of_types in systems.values() for interval in of_types.values() if interval.n]
    ends = [end for each in intervals for end in (each.value, each.low, each.high)]
    whole = next(iter(next(iter(systems.values())).values())).value
    scale = axis([*ends, *([0.0] if zero else [])], 10, STRIP - 10)
    types = dict.fromkeys(edit_type for of_types in systems.values() for edit_type in of_types)
    strips = [
        Strip(
            edit_type,
            letter_of(names.index(name)),
            name,
            SHAPES[names.index(name) % len(SHAPES)],
            interval,
            scale(interval.value),
            (scale(interval.low), scale(interval.high)) if interval.is_known else None,
        )
        for edit_type in types
        for name, of_types in systems.items()
        if (interval := of_types.get(edit_type)) is not None and interval.n
    ]
    return Forest(metric, scale, scale(0.0 if zero else whole), strips, list(systems))
