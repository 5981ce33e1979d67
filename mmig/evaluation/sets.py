"""From the features of all rows to the distances of whole sets, with intervals."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmig.evaluation.bootstrap import LEVEL, Interval
from mmig.evaluation.rows import SampleRow
from mmig.evaluation.summary import interval_dict
from mmig.metrics.sets import SetMetric

logger = logging.getLogger(__name__)
NUM_SET_RESAMPLES = 100
"""Of a set; each costs as much as the distance itself."""


def summarise_sets(
    rows: Sequence[SampleRow], metrics: Mapping[str, SetMetric], num_resamples: int = NUM_SET_RESAMPLES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Metric name -> {value, low, high, n, skipped, per_edit_type}, as of `summary.summarise`; no edit type has any.

    The value is the mean over seeds of the distance of that seed's edited images to the targets of the same keys.
    """
    targets, edited = stacked(rows)
    if metrics:
        told = "%s: %d samples, %d features, %d seeds, %d resamples"
        logger.info(told, ", ".join(metrics), *targets.shape, len(edited), num_resamples)
    summary = {}
    for name, metric in metrics.items():
        skipped = Counter(row.skipped[name] for row in rows if name in row.skipped)
        interval = _interval(metric, targets, edited, num_resamples, seed)
        summary[name] = {**interval_dict(interval), "skipped": dict(sorted(skipped.items())), "per_edit_type": {}}
    return summary


def set_values(rows: Sequence[SampleRow], metrics: Mapping[str, SetMetric]) -> dict[str, float]:
    """The values alone, of those metrics that have one; the same on every rank that has the same rows."""
    targets, edited = stacked(rows)
    return {
        name: _mean_distance(metric, targets, edited)
        for name, metric in metrics.items()
        if len(targets) >= metric.min_samples
    }


def stacked(rows: Sequence[SampleRow]) -> tuple[Tensor, Tensor]:
    """Features of the keys that have a target and an edited image of every seed, sorted by key.

    Returns:
        Targets float64 [N,D] and edited images float64 [S,N,D], S the number of seeds.
    """
    seeds = sorted({row.seed for row in rows})
    places = {(row.key, row.seed): row.features["edited"] for row in rows if "edited" in row.features}
    targets = {row.key: row.features["target"] for row in rows if "target" in row.features}
    keys = sorted(key for key in targets if all((key, seed) in places for seed in seeds))
    if not keys:
        return torch.zeros(0, 0, dtype=torch.float64), torch.zeros(len(seeds), 0, 0, dtype=torch.float64)
    edited = np.stack([[places[key, seed] for key in keys] for seed in seeds])
    return torch.from_numpy(np.stack([targets[key] for key in keys])).double(), torch.from_numpy(edited).double()


def _mean_distance(metric: SetMetric, targets: Tensor, edited: Tensor) -> float:
    return float(np.mean([metric.distance(targets, of_seed) for of_seed in edited]))


def _interval(metric: SetMetric, targets: Tensor, edited: Tensor, num_resamples: int, seed: int) -> Interval:
    """Percentiles of resampled keys, moved so that the mean of the resamples lies at the value.

    A resample holds samples twice, so that it is less varied than a set, and its distance larger: percentiles as they
    are would lie above the value.
    """
    nan, count = float("nan"), len(targets)
    if count < metric.min_samples:
        return Interval(nan, nan, nan, count)
    value = _mean_distance(metric, targets, edited)
    generator = np.random.default_rng(seed)
    draws = (torch.from_numpy(generator.integers(0, count, count)) for _ in range(num_resamples))
    distances = np.array([_mean_distance(metric, targets[draw], edited[:, draw]) for draw in draws])
    low, high = np.quantile(distances, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - distances.mean()
    return Interval(value, value + float(low), value + float(high), count).at_least(metric.floor)
