"""FID and KID against their formulas written out."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from mmig.metrics.set_features import SharedFeatures
from mmig.metrics.sets import FrechetDistance, KernelDistance, SetMetric
from mmig.metrics.suite import MetricSuite, UnknownMetricError
from mmig.metrics.tools import MetricInputError


def features(count: int, seed: int, size: int = 6, shift: float = 0.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=torch.Generator().manual_seed(seed + 100))
    return (torch.randn(count, size, generator=random) @ mixing + shift).double()


def fid_by_hand(first: np.ndarray, second: np.ndarray) -> float:
    means, covariances = [part.mean(0) for part in (first, second)], [np.cov(part.T) for part in (first, second)]
    crossed = np.trace(sqrtm(covariances[0] @ covariances[1]).real)
    return float(((means[0] - means[1]) ** 2).sum() + sum(np.trace(one) for one in covariances) - 2 * crossed)


def kid_by_hand(first: np.ndarray, second: np.ndarray) -> float:
    def kernel(one: np.ndarray, other: np.ndarray) -> float:
        return (one @ other / len(one) + 1) ** 3

    def mean(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([kernel(*pair) for pair in pairs]))

    within = [
        mean([(a, b) for i, a in enumerate(part) for j, b in enumerate(part) if i != j]) for part in (first, second)
    ]
    return sum(within) - 2 * mean([(a, b) for a in first for b in second])


@pytest.mark.parametrize(("metric", "by_hand"), [(FrechetDistance, fid_by_hand), (KernelDistance, kid_by_hand)])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_distance_is_the_formula(metric: type[SetMetric], by_hand, shift: float) -> None:
    first, second = features(30, 0), features(30, 1, shift=shift)
    assert metric().distance(first, second) == pytest.approx(by_hand(first.numpy(), second.numpy()), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("metric", [FrechetDistance, KernelDistance])
def test_order_does_not_matter_and_equal_sets_are_close(metric: type[SetMetric]) -> None:
    first, second = features(20, 0), features(20, 1, shift=1.0)
    mixed = second[torch.randperm(20, generator=torch.Generator().manual_seed(3))]
    assert metric().distance(first, mixed) == pytest.approx(metric().distance(first, second), rel=1e-9)
    assert metric().distance(first, first) < 1e-6 < metric().distance(first, second)


def test_fid_of_fewer_samples_than_features_is_still_the_formula() -> None:
    first, second = features(5, 0, size=12), features(5, 1, size=12)
    assert FrechetDistance().distance(first, second) == pytest.approx(
        fid_by_hand(first.numpy(), second.numpy()), rel=1e-4
    )


def test_kid_of_a_large_set_is_the_same_each_time_and_moves_no_random_state() -> None:
    first, second = features(1100, 0), features(1100, 1, shift=0.1)
    before = torch.random.get_rng_state()
    one, other = (KernelDistance().distance(first, second) for _ in range(2))
    assert one == other
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one == pytest.approx(KernelDistance().distance(first[:1000], second[:1000]), rel=0.2)


def test_metrics_of_sets_stand_behind_the_others_and_have_no_state_of_samples() -> None:
    suite = MetricSuite(["fid", "l1_input"], features=SharedFeatures("clip"))
    assert suite.names == ["l1_input", "fid"]
    assert list(suite.metrics) == ["l1_input"]
    assert suite.describe()["fid"] == {"higher_is_better": False}


class Spread(SetMetric):
    """One of a method's own."""

    name = "spread"

    def distance(self, targets: torch.Tensor, edited: torch.Tensor) -> float:
        return float(edited.std() / targets.std())


def test_a_set_metric_of_ones_own_is_asked_for_by_its_class_path() -> None:
    own = f"{__name__}.Spread"
    assert list(MetricSuite([own], features=SharedFeatures("clip")).sets) == ["spread"]
    with pytest.raises(MetricInputError, match="metric 'spread' needs features of images; give --features"):
        MetricSuite([own])
    with pytest.raises(UnknownMetricError, match=r"or SetMetric of sets\.py, found"):
        MetricSuite(["pathlib.Path"])
