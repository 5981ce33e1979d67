"""Eq 16-18: losses inside masks, mixed embeddings, masks on the latent grid. Numbers by hand."""

import pytest
import torch
from torch import Tensor

from mmig.diffusion.losses import edit_weights, mask_to_latents, masked_noise_loss, mix_embeddings, noise_loss

RESIDUAL = torch.tensor([[[[3.0, 4.0], [0.0, 12.0]]]])
TOP_ROW = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("norm", "foreground", "background"), [("squared", 6.25, 36.0), ("l2", 5.0, 12.0)])
def test_a_residual_of_four_numbers(norm: str, foreground: float, background: float) -> None:
    target = draw(1, 1, 2, 2)
    losses = [masked_noise_loss(target - RESIDUAL, target, mask, norm=norm) for mask in (TOP_ROW, 1 - TOP_ROW)]
    torch.testing.assert_close(torch.cat(losses), torch.tensor([foreground, background]))


def test_foreground_and_background_of_one_mask_add_up_to_the_noise_loss() -> None:
    prediction, target = draw(3, 4, 16, 16, seed=1), draw(3, 4, 16, 16, seed=2)
    mask = (draw(3, 1, 16, 16, seed=3) > 0.5).float()
    parts = [masked_noise_loss(prediction, target, part) for part in (mask, 1 - mask)]
    torch.testing.assert_close(parts[0] + parts[1], noise_loss(prediction, target))
    assert parts[0].shape == (3,)


@pytest.mark.parametrize("norm", ["squared", "l2"])
def test_the_error_outside_the_mask_does_not_count(norm: str) -> None:
    prediction, target, mask = draw(2, 4, 8, 8, seed=1), draw(2, 4, 8, 8, seed=2), torch.zeros(2, 1, 8, 8)
    mask[:, :, 2:5, 3:7] = 1
    elsewhere = prediction + 100 * draw(2, 4, 8, 8, seed=3) * (1 - mask)
    expected = masked_noise_loss(prediction, target, mask, norm=norm)
    assert expected.min() > 0
    torch.testing.assert_close(masked_noise_loss(elsewhere, target, mask, norm=norm), expected)


@pytest.mark.parametrize("norm", ["squared", "l2"])
def test_an_empty_mask_gives_zero_with_gradient_zero(norm: str) -> None:
    prediction = draw(2, 4, 8, 8).requires_grad_()
    loss = masked_noise_loss(prediction, draw(2, 4, 8, 8, seed=1), torch.zeros(2, 1, 8, 8), norm=norm)
    assert torch.equal(loss, torch.zeros(2))
    loss.sum().backward()
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


@pytest.mark.parametrize("norm", ["squared", "l2"])
def test_a_perfect_prediction_has_gradient_zero(norm: str) -> None:
    target = draw(2, 4, 8, 8)
    prediction = target.clone().requires_grad_()
    masked_noise_loss(prediction, target, torch.ones(2, 1, 8, 8), norm=norm).sum().backward()
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


def test_a_full_mask_is_the_noise_loss_or_the_whole_norm() -> None:
    prediction, target, mask = draw(2, 4, 8, 8, seed=1), draw(2, 4, 8, 8, seed=2), torch.ones(2, 1, 8, 8)
    torch.testing.assert_close(masked_noise_loss(prediction, target, mask), noise_loss(prediction, target))
    # the literal form of 4x64x64 residuals of 1 is 128
    ones = torch.ones(1, 4, 64, 64)
    assert masked_noise_loss(ones, 0 * ones, torch.ones(1, 1, 64, 64), norm="l2").item() == 128.0


def test_losses_are_float32_whatever_the_precision() -> None:
    prediction, target = draw(2, 4, 8, 8, seed=1).bfloat16(), draw(2, 4, 8, 8, seed=2).bfloat16()
    loss = masked_noise_loss(prediction, target, torch.ones(2, 1, 8, 8).bfloat16())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, noise_loss(prediction.float(), target.float()))


def test_masks_and_norms_that_do_not_fit_are_refused() -> None:
    latents = draw(2, 4, 8, 8)
    with pytest.raises(ValueError, match=r"mask of shape \(2, 1, 8, 8\), found \(2, 1, 64, 64\); bring it"):
        masked_noise_loss(latents, latents, torch.ones(2, 1, 64, 64))
    with pytest.raises(ValueError, match=r"\(2, 4, 8, 8\)"):
        masked_noise_loss(latents, latents, torch.ones(2, 4, 8, 8))
    with pytest.raises(ValueError, match="'squared' or 'l2', found 'l1'"):
        masked_noise_loss(latents, latents, torch.ones(2, 1, 8, 8), norm="l1")  # type: ignore[arg-type]


def test_embeddings_mix_seven_to_three() -> None:
    mixed = mix_embeddings(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]))
    torch.testing.assert_close(mixed, torch.tensor([[[0.7, 0.3]]]))


def test_the_ends_of_the_mix_are_exact() -> None:
    first, second = draw(2, 77, 8, seed=1), draw(2, 77, 8, seed=2)
    assert torch.equal(mix_embeddings(first, second, alpha=1.0), first)
    assert torch.equal(mix_embeddings(first, second, alpha=0.0), second)


def test_embeddings_that_do_not_mix_are_refused() -> None:
    with pytest.raises(ValueError, match=r"object \(1, 77, 8\) and background \(1, 154, 8\).*pad both"):
        mix_embeddings(draw(1, 77, 8), draw(1, 154, 8))
    with pytest.raises(ValueError, match="alpha must be in"):
        mix_embeddings(draw(1, 77, 8), draw(1, 77, 8), alpha=7)


@pytest.mark.parametrize("corner", [(0, 0), (30, 29), (509, 509), (255, 255)])
def test_a_small_object_survives_max_pooling(corner: tuple[int, int]) -> None:
    mask = torch.zeros(1, 1, 512, 512)
    rows, columns = slice(corner[0], corner[0] + 3), slice(corner[1], corner[1] + 3)
    mask[..., rows, columns] = 1
    pooled = mask_to_latents(mask, (64, 64))
    touched = {(y // 8, x // 8) for y in range(512)[rows] for x in range(512)[columns]}
    assert {tuple(cell) for cell in pooled[0, 0].nonzero().tolist()} == touched
    assert pooled.sum() == len(touched)
    # what happens to it otherwise: at most 9 of a cell's 64 pixels
    assert torch.nn.functional.avg_pool2d(mask, 8).max() < 0.15


def test_masks_need_not_be_square() -> None:
    mask = torch.zeros(2, 1, 24, 64)
    mask[1, 0, 23, 63] = 1
    pooled = mask_to_latents(mask, (6, 16))
    assert pooled.shape == (2, 1, 6, 16)
    assert pooled.nonzero().tolist() == [[1, 0, 5, 15]]
    assert torch.equal(mask_to_latents(mask.bool(), (6, 16)), pooled)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_masks_stay_so(value: float) -> None:
    assert torch.equal(mask_to_latents(torch.full((1, 1, 64, 64), value), (16, 16)), torch.full((1, 1, 16, 16), value))


@pytest.mark.parametrize("side", [60, 8])
def test_a_mask_that_is_no_multiple_of_the_grid_is_refused(side: int) -> None:
    with pytest.raises(
        ValueError, match=f"mask of 64x{side} pixels: both sides must be multiples of the latents' 16x16"
    ):
        mask_to_latents(torch.zeros(1, 1, side, 64), (16, 16))


def test_positions_weigh_the_mean_of_their_sample() -> None:
    prediction, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    masks = torch.zeros(2, 2, 16, 16)
    masks[0, 0, 0, 0], masks[0, 1, :, 12:] = 1, 1
    weights = edit_weights(masks, (4, 4), 3.0)
    assert (
        weights[0, 0].tolist() == [[3, 1, 1, 3], [1, 1, 1, 3], [1, 1, 1, 3], [1, 1, 1, 3]] and (weights[1] == 1).all()
    )
    squared = (prediction - target).square().mean(1)
    expected = (squared * weights[:, 0]).sum((1, 2)) / weights.sum((1, 2, 3))
    torch.testing.assert_close(noise_loss(prediction, target, positions=weights), expected)
    torch.testing.assert_close(noise_loss(prediction, target, positions=5 * weights), expected)
    twice = torch.tensor([2.0, 0.5])
    torch.testing.assert_close(noise_loss(prediction, target, twice, weights), expected * twice)
