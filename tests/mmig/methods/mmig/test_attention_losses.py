"""Eq 19, 20 and the regions B_t. Numbers by hand and from the reference's table."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from mmig.methods.mmig.attention_losses import binarize, overlap, retention_loss, segregation_loss
from tests.mmig.methods.mmig.attention_support import blob, draw

A = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
B = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
C = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
ZERO = torch.zeros(2, 2)


def batch(*maps: Tensor) -> Tensor:
    return torch.stack(maps).unsqueeze(0)


def all_valid(maps: Tensor) -> Tensor:
    return torch.ones(maps.shape[:2], dtype=torch.bool)


def segregation(*maps: Tensor) -> float:
    return segregation_loss(batch(*maps), all_valid(batch(*maps))).item()


def retention(next_map: Tensor, region: Tensor) -> float:
    return retention_loss(batch(next_map), batch(region), torch.ones(1, 1, dtype=torch.bool)).item()


# --- eq 19


@pytest.mark.parametrize(
    ("pair", "expected"), [((A, A), 0.5), ((A, B), 0.25), ((A, C), 1 / 6), ((B, C), 1 / 6), ((A, ZERO), 0.0)]
)
def test_overlap_of_two_maps(pair: tuple[Tensor, Tensor], expected: float) -> None:
    assert segregation(*pair) == pytest.approx(expected, abs=1e-7)
    assert segregation(*reversed(pair)) == pytest.approx(expected, abs=1e-7)


def test_segregation_sums_over_unordered_pairs() -> None:
    assert segregation(A, B, C) == pytest.approx(0.583333, abs=5e-7)
    maps = draw(2, 5, 6, 6)
    loss = segregation_loss(maps, all_valid(maps))
    for row in range(2):
        ratios = [
            np.minimum(m, n).sum() / (m + n).sum() for m, n in itertools.combinations(maps[row].double().numpy(), 2)
        ]
        assert len(ratios) == 10
        assert loss[row].item() == pytest.approx(sum(ratios), abs=1e-6)


def test_identical_concepts_reach_the_upper_bound() -> None:
    assert segregation(A, A, A, A, A) == pytest.approx(10 * 0.5)


def test_the_gradient_of_an_overlap() -> None:
    a, b = torch.tensor([[0.6, 0.4]], requires_grad=True), torch.tensor([[0.5, 0.5]])
    ratio = overlap(a, b)
    assert ratio.item() == pytest.approx(0.45)
    ratio.backward()
    torch.testing.assert_close(a.grad, torch.tensor([[-0.225, 0.275]]))


@pytest.mark.parametrize("valid", [[False, False, False], [True, False, False]])
def test_fewer_than_two_concepts_give_zero_connected(valid: list[bool]) -> None:
    maps = batch(A, B, C).requires_grad_()
    loss = segregation_loss(maps, torch.tensor([valid]))
    assert loss.item() == 0
    loss.sum().backward()
    assert torch.equal(maps.grad, torch.zeros_like(maps))


@pytest.mark.parametrize("count", [0, 1])
def test_batches_with_no_or_one_concept_give_zero_connected(count: int) -> None:
    maps = torch.rand(2, count, 4, 4, requires_grad=True)
    valid = torch.ones(2, count, dtype=torch.bool)
    assert torch.equal(segregation_loss(maps, valid), torch.zeros(2))
    segregation_loss(maps, valid).sum().backward()
    assert maps.grad is not None and maps.grad.abs().sum() == 0
    kept = retention_loss(maps, binarize(maps), valid)
    assert kept.requires_grad and kept.shape == (2,)
    if count == 0:
        assert torch.equal(kept, torch.zeros(2))


def test_maps_of_zeros_give_finite_gradients() -> None:
    maps = torch.zeros(1, 2, 4, 4, requires_grad=True)
    (segregation_loss(maps, all_valid(maps)) + retention_loss(maps, binarize(maps), all_valid(maps))).sum().backward()
    assert maps.grad.isfinite().all()


def test_invalid_concepts_change_nothing() -> None:
    maps, valid = batch(A, B, C), torch.tensor([[True, True, False]])
    assert segregation_loss(maps, valid).item() == pytest.approx(0.25)
    torch.testing.assert_close(retention_loss(maps, binarize(maps), valid), torch.tensor([0.6 + 0.6]))


# --- eq 20


@pytest.mark.parametrize(
    ("next_map", "expected"), [(A, 0.6), ((A >= 0.5).float(), 0.5), (ZERO, 1.0), (A / 77, 0.991416)]
)
def test_retention_of_one_concept(next_map: Tensor, expected: float) -> None:
    region = binarize(batch(A))[0, 0]
    assert region.tolist() == [[1, 0], [1, 1]]
    assert retention(next_map, region) == pytest.approx(expected, abs=5e-7)


def test_the_gradient_of_retention_pulls_up_inside_and_pushes_down_outside() -> None:
    a = torch.tensor([[[[0.6, 0.4]]]], requires_grad=True)
    loss = retention_loss(a, torch.tensor([[[[1.0, 0.0]]]]), torch.ones(1, 1, dtype=torch.bool))
    assert loss.item() == pytest.approx(0.7)
    loss.sum().backward()
    torch.testing.assert_close(a.grad, torch.tensor([[[[-0.35, 0.15]]]]))


def test_retention_sums_over_concepts_between_one_half_and_one_each() -> None:
    maps = draw(2, 3, 8, 8)
    regions = binarize(draw(2, 3, 8, 8, seed=1))
    loss = retention_loss(maps, regions, all_valid(maps))
    single = [retention_loss(maps[:, k : k + 1], regions[:, k : k + 1], all_valid(maps[:, :1])) for k in range(3)]
    torch.testing.assert_close(loss, sum(single))
    assert all(value.min() >= 0.5 and value.max() <= 1 for value in single)


def test_no_gradient_reaches_the_regions() -> None:
    maps, soft = batch(A).requires_grad_(), batch(B).requires_grad_()
    retention_loss(maps, soft, torch.ones(1, 1, dtype=torch.bool)).sum().backward()
    assert maps.grad.abs().sum() > 0
    assert soft.grad is None
    assert not binarize(maps).requires_grad


# --- B_t


@pytest.mark.parametrize(("threshold", "area", "loss"), [(0.3, 29, 0.6833), (0.5, 21, 0.6884), (0.7, 9, 0.7756)])
def test_regions_of_a_blob(threshold: float, area: int, loss: float) -> None:
    region = binarize(batch(blob()), threshold)[0, 0]
    assert region.sum() == area
    assert retention(blob(), region) == pytest.approx(loss, abs=5e-5)
    # a part of the map's own maximum
    assert torch.equal(binarize(batch(blob() / 77), threshold)[0, 0], region)


def test_constant_maps_are_all_region_and_empty_ones_none() -> None:
    assert binarize(torch.full((1, 1, 4, 4), 0.2)).sum() == 16
    assert binarize(torch.zeros(1, 1, 4, 4)).sum() == 0


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_other_thresholds_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"expected a number in \(0, 1\], found"):
        binarize(batch(A), threshold)
