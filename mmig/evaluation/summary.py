"""From per-sample rows to the numbers of a report: values, intervals, n, skips, overall and per edit type."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mmig.evaluation.bootstrap import LEVEL, NUM_RESAMPLES, Interval, mean_interval, paired_difference
from mmig.evaluation.rows import SampleRow, by_key


def summarise(
    rows: Sequence[SampleRow],
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    floors: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Metric name -> {value, low, high, n, skipped, per_edit_type}; n counts sample keys, skips count edits.

    Args:
        rows: one a (key, seed).
        num_resamples, seed: of the bootstrap.
        floors: by metric the least value of a mean and of its bounds; values of samples are not cut.
    """
    names = list(rows[0].values) if rows else []
    floors = floors or {}
    types = sorted({row.edit_type for row in rows if row.edit_type})
    summary = {}
    for name in names:
        one = partial(
            _summarise_one, name=name, num_resamples=num_resamples, seed=seed, floor=floors.get(name, -math.inf)
        )
        of_types = {edit_type: one([row for row in rows if row.edit_type == edit_type]) for edit_type in types}
        summary[name] = {**one(rows), "per_edit_type": of_types}
    return summary


def compare(
    first: Sequence[SampleRow], second: Sequence[SampleRow], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Paired difference first - second of every metric that both runs have on common keys, seeds averaged first."""
    differences = {}
    for name in first[0].values if first else ():
        one, other = by_key(first, name), by_key(second, name)
        if one.keys() & other.keys():
            differences[name] = paired_difference(one, other, num_resamples, LEVEL, seed)
    return differences


def compare_types(
    first: Sequence[SampleRow], second: Sequence[SampleRow], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """Paired differences first - second, by metric and edit type; types that share no key with a value are left out."""
    differences: dict[str, dict[str, Interval]] = {}
    for edit_type in sorted({row.edit_type for row in first if row.edit_type}):
        parts = [[row for row in rows if row.edit_type == edit_type] for rows in (first, second)]
        for name, interval in compare(parts[0], parts[1], num_resamples, seed).items():
            differences.setdefault(name, {})[edit_type] = interval
    return differences


def interval_of(value: Mapping[str, Any]) -> Interval:
    """The interval of its JSON form, or of a metric's entry in metrics.json; NaN instead of null."""
    numbers = (math.nan if value[name] is None else value[name] for name in ("value", "low", "high"))
    return Interval(*numbers, n=value["n"])


def interval_dict(interval: Interval) -> dict[str, Any]:
    """JSON form of an interval: null instead of NaN."""
    numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {**{key: None if math.isnan(value) else value for key, value in numbers.items()}, "n": interval.n}


def _summarise_one(rows: Sequence[SampleRow], name: str, num_resamples: int, seed: int, floor: float) -> dict[str, Any]:
    values = np.array(list(by_key(rows, name).values()), dtype=np.float64)
    skipped = Counter(row.skipped[name] for row in rows if name in row.skipped)
    # a floor keeps the order of the resampled means, so that quantiles may be cut in their place
    interval = mean_interval(values, num_resamples, LEVEL, seed).at_least(floor)
    return {**interval_dict(interval), "skipped": dict(sorted(skipped.items()))}
