"""SDXL, PixArt and Stable Diffusion 3 (tiny, random) behind the same calls as Stable Diffusion's UNet: what conditions
them, and attention taken from them.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mmig.diffusion.attention import AttentionError, capture_attention
from mmig.diffusion.conditioning import Conditioning, ConditioningError, as_dtype, concatenate, denoise
from tests.mmig.diffusion.tiny_denoisers import BATCH, KINDS, LENGTH, Kind, build_pixart, build_sd3, draw

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


# What conditions them -----------------------------------------------------------------------------------------------


@every_kind
def test_each_gets_what_its_pipeline_gives_it(kind: Kind) -> None:
    model, timesteps = kind.build(), torch.tensor([3, 900])
    expected = kind.call(model, kind.latents(), timesteps, kind.condition())
    assert expected.shape == kind.latents().shape
    assert torch.equal(denoise(model, kind.latents(), timesteps, kind.condition()), expected)


@every_kind
def test_every_part_of_the_condition_counts(kind: Kind) -> None:
    model, condition = kind.build(), kind.condition()
    expected = kind.predict(model)
    others = [Conditioning(condition.tokens + 1, condition.mask, condition.pooled, extra=condition.extra)]
    if condition.pooled is not None:
        others.append(Conditioning(condition.tokens, condition.mask, condition.pooled + 1, extra=condition.extra))
    for name, value in condition.extra.items():
        changed = {**condition.extra, name: value + 100}
        others.append(Conditioning(condition.tokens, condition.mask, condition.pooled, extra=changed))
    for other in others:
        assert (kind.predict(model, other) - expected).abs().amax(dim=(1, 2, 3)).min() > 1e-6


@every_kind
def test_one_timestep_may_be_told_for_all(kind: Kind) -> None:
    model = kind.build()
    alike = denoise(model, kind.latents(), torch.tensor([500, 500]), kind.condition())
    assert torch.equal(denoise(model, kind.latents(), torch.tensor(500), kind.condition()), alike)


@every_kind
def test_joined_conditions_are_those_of_their_rows(kind: Kind) -> None:
    model, condition = kind.build(), kind.condition()
    twice = denoise(
        model, kind.latents().repeat(2, 1, 1, 1), torch.tensor([3, 900, 3, 900]), concatenate([condition, condition])
    )
    torch.testing.assert_close(twice[BATCH:], kind.predict(model), atol=1e-4, rtol=1e-3)


@every_kind
def test_a_condition_follows_the_precision_of_the_denoiser(kind: Kind) -> None:
    condition = as_dtype(kind.condition(), torch.bfloat16)
    assert condition.tokens.dtype == torch.bfloat16
    for name, value in kind.condition().extra.items():
        floats = value.is_floating_point()
        assert condition.extra[name].dtype == (torch.bfloat16 if floats else value.dtype)
    model = kind.build().to(torch.bfloat16)
    assert denoise(model, kind.latents().bfloat16(), torch.tensor([3, 900]), condition).dtype == torch.bfloat16


def test_masked_tokens_do_not_change_what_a_transformer_predicts() -> None:
    kind, model = KINDS["pixart"], build_pixart()
    condition = kind.condition()
    noise = torch.where(condition.mask[..., None], condition.tokens, 9.0)
    other = Conditioning(noise, condition.mask, extra=condition.extra)
    torch.testing.assert_close(kind.predict(model, other), kind.predict(model))


def test_what_a_denoiser_has_no_place_for_is_refused_by_name() -> None:
    condition, kind = KINDS["sd3"].condition(), KINDS["sd3"]
    mask = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    message = r"denoiser SD3Transformer2DModel takes no mask of the tokens \(encoder_attention_mask\); leave it out"
    with pytest.raises(ConditioningError, match=message):
        kind.predict(build_sd3(), Conditioning(condition.tokens, mask, condition.pooled))
    with pytest.raises(ConditioningError, match=r"takes no condition time_ids \(added_cond_kwargs\)"):
        kind.predict(build_sd3(), Conditioning(condition.tokens, None, condition.pooled, extra={"time_ids": mask}))


# Attention ----------------------------------------------------------------------------------------------------------


def attended(model: nn.Module, layer: str, run: Callable[[], Tensor], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Probabilities of all keys in one layer [B,heads,N,K], from what reaches the fused kernel while it runs."""
    found: list[Tensor] = []
    original = nn.functional.scaled_dot_product_attention

    def listen(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **named: object) -> Tensor:
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
        exponents = (scores if attn_mask is None else scores + attn_mask).exp()
        found.append(exponents / exponents.sum(dim=-1, keepdim=True))
        return original(query, key, value, attn_mask=attn_mask, **named)

    inside = model.get_submodule(layer)
    target = "diffusers.models.attention_processor.F.scaled_dot_product_attention"
    begin = inside.register_forward_pre_hook(lambda *_: monkeypatch.setattr(target, listen))
    end = inside.register_forward_hook(lambda *_: monkeypatch.setattr(target, original))
    run()
    begin.remove()
    end.remove()
    (only,) = found
    return only


@every_kind
def test_captured_maps_are_what_the_fused_kernels_attend_with(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    model = kind.build()
    with capture_attention(model, kind.maps) as capture:
        kind.predict(model)
    assert capture.layers == kind.layers
    queries = kind.maps[0] * kind.maps[1]
    for layer, probabilities in capture.probabilities().items():
        expected = attended(model, layer, lambda: kind.predict(model), monkeypatch)
        assert probabilities.shape == (BATCH, probabilities.shape[1], queries, LENGTH)
        torch.testing.assert_close(probabilities, expected[:, :, :queries, -LENGTH:], atol=1e-6, rtol=1e-4)
        assert probabilities.std() > 1e-3


@every_kind
def test_the_average_is_over_layers_and_heads_on_the_grid(kind: Kind) -> None:
    model = kind.build()
    with capture_attention(model, kind.maps) as capture:
        kind.predict(model)
    layers = list(capture.probabilities().values())
    expected = sum(value[1, :, 3 * kind.maps[1] + 2, 1].mean() for value in layers) / len(layers)
    assert capture.average().shape == (BATCH, LENGTH, *kind.maps)
    torch.testing.assert_close(capture.average()[1, 1, 3, 2], expected)


def test_joint_attention_leaves_a_share_to_the_image() -> None:
    kind, model = KINDS["sd3"], build_sd3()
    with capture_attention(model, kind.maps) as capture:
        kind.predict(model)
    share = capture.average().sum(dim=1)
    assert share.min() > 0.0 and share.max() < 0.5  # 7 tokens of text among 96 of the image


@every_kind
def test_capture_changes_no_bit_and_leaves_nothing_behind(kind: Kind) -> None:
    model = kind.build()
    before = kind.predict(model)
    with capture_attention(model, kind.maps):
        assert torch.equal(kind.predict(model), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@every_kind
@pytest.mark.parametrize("checkpointing", [False, True])
def test_maps_carry_gradients_to_the_text(kind: Kind, checkpointing: bool) -> None:
    """Along a random direction, against central differences; the backward pass comes after the capture."""
    model = kind.build().double().train()
    if checkpointing:
        model.enable_gradient_checkpointing()
    condition, latents = as_dtype(kind.condition(), torch.float64), kind.latents().double()
    direction = draw(*condition.tokens.shape, seed=5).double()

    def loss(tokens: Tensor) -> Tensor:
        given = Conditioning(tokens, condition.mask, condition.pooled, extra=condition.extra)
        with capture_attention(model, kind.maps) as capture:
            denoise(model, latents, torch.tensor([3, 900]), given)
        return capture.average()[:, 1].square().sum() * 1e3

    start = condition.tokens.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start), start)
    slope, step = (gradient * direction).sum().item(), 0.01
    ahead, behind = loss(condition.tokens + step * direction), loss(condition.tokens - step * direction)
    assert abs(slope) > 1e-3
    assert slope == pytest.approx((ahead - behind).item() / (2 * step), rel=1e-2)


def test_kinds_of_attention_that_are_not_known_are_refused_by_layer() -> None:
    kind, model = KINDS["sd3"], build_sd3()
    model.fuse_qkv_projections()
    message = (
        r"attention layer transformer_blocks\.0\.attn: its processor FusedJointAttnProcessor2_0 does not call to_q"
    )
    with capture_attention(model, kind.maps), pytest.raises(AttentionError, match=message):
        kind.predict(model)
    layer = build_sd3().transformer_blocks[1].attn
    holder = nn.ModuleDict({"attn": layer})
    hidden, context = draw(1, 96, 32), draw(1, LENGTH, 32)
    for named, what in (
        ({"image_rotary_emb": hidden}, "rotary positions"),
        ({"attention_mask": hidden}, "masks of joint"),
    ):
        with capture_attention(holder, (8, 12)) as capture, pytest.raises(AttentionError, match=f"layer attn: {what}"):
            capture._arm()
            layer(hidden, encoder_hidden_states=context, **named)
