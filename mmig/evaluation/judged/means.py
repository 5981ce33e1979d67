"""From values of items to means: by type, over items (micro), over types (macro), and what the missing could do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmig.evaluation.bootstrap import NUM_RESAMPLES, function_interval
from mmig.evaluation.judged.items import Item

Scores = tuple[float, ...]
Answers = Mapping[str, Scores]
"""Scores by the name of the question, of one pass."""


def percent(score: float) -> float:
    """A score of 1 to 5 on 0 to 100."""
    return (score - 1) * 25


@dataclass(frozen=True)
class Scored:
    """What an item comes to under one measure.

    Attributes:
        item: which.
        value: None where it leaves the mean.
        worst, best: what the value would be if all that is missing of it were the lowest or the highest; the value
            itself where nothing is.
        weight: of the value in a mean; 1 but where scores are counted and not items.
        full_weight: of worst and best.
    """

    item: Item
    value: float | None
    worst: float
    best: float
    weight: float = 1.0
    full_weight: float = 1.0


@dataclass(frozen=True)
class Measure:
    """What a benchmark reports of an item.

    Attributes:
        name: as in its paper.
        of: value of an item from the answers that it needs; greater where any of their scores is.
        needs: names of the questions of an item that it needs; () for one that it says nothing of.
        scale: lowest and highest value.
        official_only: whether it stands in results of mode "official" alone.
    """

    name: str
    of: Callable[[Item, Answers], float]
    needs: Callable[[Item], Sequence[str]]
    scale: tuple[float, float]
    official_only: bool = False


def scored(
    measure: Measure,
    items: Sequence[Item],
    answers: Callable[[Item, str], Sequence[Scores | None]],
    extremes: Callable[[Item, str], tuple[Scores, Scores]],
) -> list[Scored]:
    """Values of the items that a measure is about: the mean over the passes that can be read.

    Args:
        measure: what is computed.
        items: of the benchmark.
        answers: scores of an item's question by pass, None where there are none.
        extremes: the lowest and the highest scores that a question of an item can have.
    """
    found = []
    for item in items:
        if not (names := tuple(measure.needs(item))):
            continue
        passes = list(zip(*(answers(item, name) for name in names), strict=True))
        known = [measure.of(item, dict(zip(names, of_pass, strict=True))) for of_pass in passes if None not in of_pass]
        bounds = []
        for side in (0, 1):
            filled = [
                {
                    name: extremes(item, name)[side] if given is None else given
                    for name, given in zip(names, of_pass, strict=True)
                }
                for of_pass in passes
            ]
            bounds.append(_mean([measure.of(item, of_pass) for of_pass in filled]))
        found.append(Scored(item, _mean(known) if known else None, *bounds))
    return found


def tabulate(values: Sequence[Scored], digits: int | None = None, num_resamples: int = NUM_RESAMPLES) -> dict[str, Any]:
    """Means of the values: {"micro": cell, "macro": cell, "groups": {level: {name: cell}}}; types are level "kind".

    A cell is {"value", "low", "high", "n", "items", "worst", "best"}: the mean of the n items with a value, its 95 %
    bootstrap interval over these, how many items there should be, and the mean if all that is missing were the lowest
    or the highest. None where nothing is known. Intervals of a macro mean take items of all types together.

    Args:
        values: of all items that the measure is about.
        digits: decimals that a mean of a group is rounded to before it counts further; None for all.
        num_resamples: of the bootstrap.
    """
    levels: dict[str, dict[str, list[Scored]]] = {}
    for value in values:
        for level, name in {"kind": value.item.kind, **value.item.groups}.items():
            levels.setdefault(level, {}).setdefault(name, []).append(value)
    groups = {
        level: {name: cell(of_name, digits, num_resamples) for name, of_name in sorted(of_level.items())}
        for level, of_level in levels.items()
    }
    macro = _macro(values, groups.get("kind", {}), num_resamples)
    return {"micro": cell(values, digits, num_resamples), "macro": macro, "groups": groups}


def cell(values: Sequence[Scored], digits: int | None = None, num_resamples: int = NUM_RESAMPLES) -> dict[str, Any]:
    """The mean of some values, see `tabulate`."""
    counted = [value for value in values if value.value is not None]
    numbers = {
        "value": _weighted([(value.value, value.weight) for value in counted], digits),
        "worst": _weighted([(value.worst, value.full_weight) for value in values], digits),
        "best": _weighted([(value.best, value.full_weight) for value in values], digits),
    }
    return {**numbers, **_interval(counted, False, num_resamples), "n": len(counted), "items": len(values)}


def _macro(values: Sequence[Scored], kinds: Mapping[str, Mapping[str, Any]], num_resamples: int) -> dict[str, Any]:
    """The mean of the means of types; types without any value leave it, as they leave the official ones."""
    counted = [value for value in values if value.value is not None]
    numbers = {}
    for name in ("value", "worst", "best"):
        means = [of_kind[name] for of_kind in kinds.values() if of_kind[name] is not None]
        numbers[name] = _mean(means) if means else None
    return {**numbers, **_interval(counted, True, num_resamples), "n": len(counted), "items": len(values)}


def _weighted(pairs: Sequence[tuple[float, float]], digits: int | None) -> float | None:
    if not pairs:
        return None
    mean = sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs)
    return mean if digits is None else round(mean, digits)


def _interval(counted: Sequence[Scored], by_kind: bool, num_resamples: int) -> dict[str, float | None]:
    if len(counted) < 2:
        return {"low": None, "high": None}
    kinds = sorted({value.item.kind for value in counted}) if by_kind else [""]
    columns = {kind: number for number, kind in enumerate(kinds)}
    table = np.zeros((len(counted), 2, len(kinds)))
    for row, value in enumerate(counted):
        column = columns[value.item.kind] if by_kind else 0
        table[row, :, column] = value.weight, value.value * value.weight

    def mean_of_means(means: NDArray[np.float64]) -> NDArray[np.float64]:
        weights, sums = means[..., : len(kinds)], means[..., len(kinds) :]
        there = weights > 0  # a small type may be missing in a resample
        return np.where(there, sums / np.where(there, weights, 1), 0).sum(-1) / there.sum(-1)

    found = function_interval(table.reshape(len(counted), -1), mean_of_means, num_resamples)
    return {"low": found.low, "high": found.high}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
