"""The maps that eq 19 and 20 are computed on: smoothed, joined over tokens, normalised, with gradient."""

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from mmig.diffusion.concepts import ConceptTokens
from mmig.methods.mmig.attention_losses import binarize, concept_maps, retention_loss, segregation_loss
from tests.mmig.methods.mmig.attention_support import blob, draw


def tokens(positions: list[list[list[int]]], length: int) -> ConceptTokens:
    """Concepts at given positions; every column is text."""
    where = torch.tensor(positions)
    marks = torch.ones(len(positions), length, dtype=torch.bool)
    lost = torch.zeros(len(positions), dtype=torch.int64)
    return ConceptTokens(where, (where >= 0).any(dim=2), marks, lost, lost)


def test_an_impulse_is_smoothed_with_the_published_weights() -> None:
    attention = torch.zeros(1, 1, 7, 7)
    attention[0, 0, 3, 3] = 1
    smoothed = concept_maps(attention, tokens([[[0]]], 1)).maps[0, 0]
    centre, edge, corner = 0.33191, 0.12210, 0.04492
    expected = torch.tensor([[corner, edge, corner], [edge, centre, edge], [corner, edge, corner]])
    torch.testing.assert_close(smoothed[2:5, 2:5], expected / centre, atol=3e-5, rtol=0)
    assert smoothed.sum().item() == pytest.approx(1 / centre, abs=1e-4)


def test_smoothing_reflects_at_the_border() -> None:
    attention = draw(2, 3, 5, 6)
    found = concept_maps(attention, tokens([[[0], [2]]] * 2, 3)).maps
    weights = np.array([0.21194, 0.57612, 0.21194])
    for row, (number, column) in itertools.product(range(2), enumerate((0, 2))):
        # scipy calls reflection about the outermost pixel's centre "mirror"
        expected = convolve(attention[row, column].numpy(), np.outer(weights, weights), mode="mirror")
        np.testing.assert_allclose(found[row, number].numpy(), expected / expected.max(), atol=4e-5)


def test_a_concept_of_two_tokens_has_their_mean() -> None:
    attention = draw(1, 3, 4, 4)
    attention = torch.cat([attention, attention[:, 1:].mean(dim=1, keepdim=True)], dim=1)
    maps, valid = concept_maps(attention, tokens([[[1, 2], [3, -1], [0, -1]]], 4))
    torch.testing.assert_close(maps[0, 0], maps[0, 1])
    assert (maps[0, 0] - maps[0, 2]).abs().max() > 0.1
    assert valid.tolist() == [[True, True, True]]


def test_maps_are_divided_by_their_maximum_with_gradient() -> None:
    attention = (draw(1, 2, 4, 4) / 77).requires_grad_()
    maps = concept_maps(attention, tokens([[[0], [1]]], 2)).maps
    torch.testing.assert_close(maps.amax(dim=(2, 3)), torch.ones(1, 2), atol=2e-4, rtol=0)
    # the sum of a / max(a) does not change when a grows everywhere, so its gradient is orthogonal to a
    maps[0, 0].sum().backward()
    assert attention.grad[0, 0].abs().max() > 1
    assert abs((attention.grad[0, 0] * attention.detach()[0, 0]).sum().item()) < 0.02
    peak = maps.detach()[0, 0].flatten().argmax()
    assert attention.grad[0, 0].flatten()[peak] < 0


def test_suppressing_one_of_two_concepts_at_one_place_does_not_lower_the_loss() -> None:
    attention = torch.stack([blob(), 0.2 * blob()]).unsqueeze(0)
    where = tokens([[[0], [1]]], 2)
    assert segregation_loss(*concept_maps(attention, where)).item() == pytest.approx(0.5, abs=1e-5)
    # what it would be on raw maps: r / (1 + r)
    assert segregation_loss(attention, where.valid).item() == pytest.approx(0.2 / 1.2, abs=1e-6)


def test_other_tokens_do_not_matter() -> None:
    attention = draw(1, 4, 8, 8)
    changed = attention.clone()
    changed[:, 3] = 5
    where = tokens([[[0], [1]]], 4)
    first, second = (concept_maps(value, where).maps for value in (attention, changed))
    assert torch.equal(first, second)


def test_rows_without_concepts_give_maps_of_zeros() -> None:
    attention = draw(2, 5, 4, 4).requires_grad_()
    maps, valid = concept_maps(attention, tokens([[[2]], [[-1]]], 5))
    assert valid.tolist() == [[True], [False]]
    assert maps[1].abs().sum() == 0
    (gradient,) = torch.autograd.grad(maps.sum(), attention)
    assert gradient.isfinite().all() and gradient[1].abs().sum() == 0


def test_no_concepts_at_all_stay_connected() -> None:
    attention = draw(2, 5, 4, 4).requires_grad_()
    where = tokens([[[0]], [[0]]], 5)
    where = where._replace(positions=where.positions[:, :0], valid=where.valid[:, :0])
    maps, valid = concept_maps(attention, where)
    assert maps.shape == (2, 0, 4, 4)
    loss = segregation_loss(maps, valid) + retention_loss(maps, binarize(maps), valid)
    assert torch.equal(loss, torch.zeros(2))
    loss.sum().backward()
    assert attention.grad.abs().sum() == 0


def test_autocast_does_not_lower_the_precision() -> None:
    attention = draw(1, 3, 8, 8)
    where = tokens([[[0], [1]]], 3)
    expected = segregation_loss(*concept_maps(attention, where))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = segregation_loss(*concept_maps(attention, where))
    assert torch.equal(found, expected)


def test_what_does_not_fit_is_refused() -> None:
    attention = draw(2, 77, 4, 4)
    with pytest.raises(ValueError, match=r"located in \(2, 154\) .* attention has \(2, 77\); encode the same texts"):
        concept_maps(attention, tokens([[[0]]] * 2, 154))
    with pytest.raises(ValueError, match=r"valid \[B,K\], found \(2, 3, 4, 4\) and \(2, 2\)"):
        segregation_loss(draw(2, 3, 4, 4), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\) do not fit regions of shape \(2, 3, 8, 8\)"):
        retention_loss(draw(2, 3, 4, 4), draw(2, 3, 8, 8), torch.ones(2, 3, dtype=torch.bool))
