"""Adaptive augmentation: what it leaves alone, what it moves, how p is steered."""

import math

import pytest
import torch
from scipy.stats import norm

from mmig.methods.styleclip.augmentation import NUM_DRAWS, adapted, augment, recoloured, warped


def pictures(count: int = 2, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def turned(angle: float) -> torch.Tensor:
    cosine, sine = math.cos(angle), math.sin(angle)
    return torch.tensor([[[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]]).expand(2, -1, -1)


def test_places_that_stay_leave_pictures_as_they_are() -> None:
    torch.testing.assert_close(warped(pictures(), torch.eye(3).expand(2, -1, -1)), pictures(), atol=1e-5, rtol=0)


def test_a_shift_of_whole_pixels_moves_them_whole() -> None:
    places = torch.eye(3).repeat(2, 1, 1)
    places[:, 0, 2] = 2 * 3 / 16
    torch.testing.assert_close(warped(pictures(), places)[..., :13], pictures()[..., 3:], atol=1e-5, rtol=0)


def test_a_quarter_turn_is_one() -> None:
    smooth = torch.nn.functional.interpolate(pictures(side=4), 16, mode="bicubic")
    torch.testing.assert_close(warped(smooth, turned(math.pi / 2)), smooth.rot90(1, (2, 3)), atol=0.05, rtol=0)


def test_probability_zero_changes_nothing() -> None:
    assert torch.equal(augment(pictures(), torch.randn(2, NUM_DRAWS), 0.0), pictures())


def test_every_draw_has_its_use() -> None:
    """Chances, which are every draw that p turns on, come from uniform numbers: a small one makes them happen."""
    images = torch.nn.functional.interpolate(pictures(1, 4), 16, mode="bicubic")
    draws = torch.full((1, NUM_DRAWS), float(norm.ppf(0.3)))
    still = augment(images, draws, 0.9)
    for number in range(NUM_DRAWS):
        other = draws.clone()
        other[0, number] = float(norm.ppf(0.95))
        assert not torch.allclose(augment(images, other, 0.9), still, atol=1e-4), number


def test_a_sample_is_transformed_by_its_own_draws() -> None:
    draws = torch.randn(2, NUM_DRAWS)
    together = augment(pictures(), draws, 0.8)
    torch.testing.assert_close(together[1:], augment(pictures()[1:], draws[1:], 0.8), atol=1e-5, rtol=1e-5)


def test_colours_move_as_their_matrix_says() -> None:
    matrix = torch.eye(4).repeat(2, 1, 1)
    matrix[:, 0, 3] = 0.25
    moved = recoloured(pictures(), matrix) - pictures()
    torch.testing.assert_close(moved.mean((0, 2, 3)), torch.tensor([0.25, 0.0, 0.0]))


def test_the_gradient_runs_through() -> None:
    images = pictures().requires_grad_()
    augment(images, torch.randn(2, NUM_DRAWS), 0.8).sum().backward()
    assert images.grad is not None and (images.grad != 0).any()


@pytest.mark.parametrize(("sign", "expected"), [(0.7, 0.502), (0.5, 0.498), (0.6, 0.5)])
def test_p_follows_the_sign_of_what_is_real(sign: float, expected: float) -> None:
    assert adapted(0.5, sign, 0.6, 1000, 500_000) == pytest.approx(expected)


def test_p_stays_a_probability() -> None:
    assert adapted(0.999, 1.0, 0.6, 1000, 500_000) == 1.0
    assert adapted(0.001, 0.0, 0.6, 1000, 500_000) == 0.0
