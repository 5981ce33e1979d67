"""Gradients of captured attention: with checkpointing, with a frozen UNet, beside the mutual support module."""

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from mmig.diffusion.attention import capture_attention
from mmig.diffusion.injection import inject
from mmig.methods.mmig.attention_losses import concept_maps, segregation_loss
from mmig.methods.mmig.mmsm import MMSM
from tests.mmig.diffusion.tiny_attention import Inputs, build_unet, two_concepts


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return build_unet()


def loss_and_gradients(unet: nn.Module, checkpointing: bool, inside: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Noise and map loss with gradients of latents, text and weights; backward inside or after the block."""
    unet.requires_grad_(True)
    unet.zero_grad()
    unet.train()
    unet.enable_gradient_checkpointing() if checkpointing else unet.disable_gradient_checkpointing()
    inputs = Inputs()
    inputs.latents.requires_grad_()
    inputs.tokens.requires_grad_()
    with capture_attention(unet, (16, 16)) as capture:
        output = inputs(unet)
        loss = output.square().mean() + segregation_loss(*concept_maps(capture.average(), two_concepts(2))).sum()
        if inside:
            held = {name: layer.query for name, layer in capture._layers.items()}
            loss.backward()
            assert all(capture._layers[name].query is query for name, query in held.items())
    if not inside:
        loss.backward()
    gradients = {name: value.grad.clone() for name, value in unet.named_parameters() if value.grad is not None}
    return loss.detach(), gradients | {"latents": inputs.latents.grad, "tokens": inputs.tokens.grad}


def test_gradient_checkpointing_changes_neither_loss_nor_gradients(
    unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    attend = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        "diffusers.models.attention_processor.F.scaled_dot_product_attention",
        lambda *args, **named: calls.append(1) or attend(*args, **named),
    )
    loss, expected = loss_and_gradients(unet, checkpointing=False, inside=True)
    plain = len(calls)
    for inside in (True, False):
        calls.clear()
        found_loss, found = loss_and_gradients(unet, checkpointing=True, inside=inside)
        assert len(calls) == 2 * plain  # it really computed again
        assert torch.equal(found_loss, loss)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def test_the_gradient_is_the_slope_of_the_map_loss(unet: UNet2DConditionModel) -> None:
    """Central differences along a random direction, on the raw maps of two tokens, in float64 but for these."""
    unet.double()
    inputs = Inputs(batch=1)
    latents, tokens = inputs.latents.double(), inputs.tokens.double()
    direction = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5)).double()

    def loss(at: Tensor) -> Tensor:
        with capture_attention(unet, (8, 8)) as capture:
            unet(at, 500, tokens)
        return segregation_loss(capture.average()[:, 1:3], torch.ones(1, 2, dtype=torch.bool)).sum()

    start = latents.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start), start)
    slope = (gradient * direction).sum().item()
    assert abs(slope) > 1e-3
    step = 0.002
    measured = (loss(latents + step * direction) - loss(latents - step * direction)).item() / (2 * step)
    assert slope == pytest.approx(measured, rel=2e-3)


def test_a_frozen_unet_passes_gradients_to_latents_and_text(unet: UNet2DConditionModel) -> None:
    inputs = Inputs()
    inputs.latents.requires_grad_()
    inputs.tokens.requires_grad_()
    with capture_attention(unet, (16, 16)) as capture:
        inputs(unet)
    segregation_loss(*concept_maps(capture.average(), two_concepts(2))).sum().backward()
    assert inputs.latents.grad.abs().max() > 0
    assert inputs.tokens.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_without_gradients_nothing_is_kept_for_them(unet: UNet2DConditionModel) -> None:
    with torch.no_grad(), capture_attention(unet, (16, 16)) as capture:
        Inputs()(unet)
        assert not capture.average().requires_grad


def trained_mmsm() -> MMSM:
    mmsm = MMSM(24, 64, 32, heads=4)
    nn.init.normal_(mmsm.feature_decoder[-1].weight, std=0.1)
    return mmsm


@pytest.mark.parametrize("inject_first", [True, False])
def test_it_composes_with_the_mutual_support_module(unet: UNet2DConditionModel, inject_first: bool) -> None:
    torch.manual_seed(2)
    mmsm, states, mask = trained_mmsm(), torch.randn(2, 5, 24), torch.ones(2, 5)
    inputs = Inputs()

    def run(order: list[Callable]) -> tuple[Tensor, Tensor]:
        with order[0]() as first, order[1]() as second:
            output = inputs(unet)
        capture = first if hasattr(first, "average") else second
        return output, capture.average()

    both = [lambda: inject(unet, {"mid_block": mmsm}, states, mask), lambda: capture_attention(unet, (16, 16))]
    output, average = run(both if inject_first else both[::-1])
    with inject(unet, {"mid_block": mmsm}, states, mask):
        assert torch.equal(inputs(unet), output)
    with capture_attention(unet, (16, 16)) as plain:
        inputs(unet)
    # e6 enters at the mid block: the layers after it attend differently
    assert (plain.average() - average).abs().max() > 1e-5
    average.sum(dim=(2, 3))[:, 1].sum().backward()
    assert mmsm.feature_decoder[-1].weight.grad.abs().max() > 0
