"""FLUX transformers (tiny, random) as denoisers: what is attached to them, and attention from them."""

from collections.abc import Iterator

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from mmig.diffusion.attention import AttentionError, capture_attention
from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.injection import InjectionError, inject
from mmig.diffusion.kinds import kind_of
from mmig.methods.mmig.mmsm import MMSM
from tests.mmig.diffusion.flux_support import BLOCKS, GRID, TEXT, TIMES, TOKENS, build, condition, latents
from tests.mmig.diffusion.tiny_denoisers import draw
from tests.tiny_flux import WIDTH


@pytest.fixture(scope="module")
def model() -> FluxTransformer2DModel:
    return build()


# Mixers -------------------------------------------------------------------------------------------------------------


def trained_mmsm() -> MMSM:
    torch.manual_seed(2)
    mmsm = MMSM(24, WIDTH, 32, heads=4)
    nn.init.normal_(mmsm.feature_decoder[-1].weight, std=0.3)
    return mmsm.requires_grad_(False)


def text() -> tuple[Tensor, Tensor]:
    """e0 and its mask."""
    return draw(2, 5, 24), torch.arange(5) < torch.tensor([[5], [3]])


def outputs_of(model: nn.Module, path: str, mmsm: MMSM | None) -> tuple[Tensor, Tensor]:
    """What a block hands on, (text, image), with a mixer at it or without."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(_module: nn.Module, _inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        seen.append(output)

    modules = {} if mmsm is None else {path: mmsm}
    with inject(model, modules, *text(), grid=GRID, image_entry=kind_of(model).image_entry):
        handle = model.get_submodule(path).register_forward_hook(watch)
        denoise(model, latents(), TIMES, condition())
        handle.remove()
    return seen[0]


@pytest.mark.parametrize("path", BLOCKS)
def test_a_mixer_changes_the_tokens_of_the_noisy_latents_alone(model: nn.Module, path: str) -> None:
    """Those of the text and of the source leave the block to the bit as they were."""
    mmsm = trained_mmsm()
    (words, image), (plain_words, plain) = outputs_of(model, path, mmsm), outputs_of(model, path, None)
    assert image.shape == (2, 2 * TOKENS, WIDTH)
    assert torch.equal(words, plain_words) and torch.equal(image[:, TOKENS:], plain[:, TOKENS:])
    feature_map = plain[:, :TOKENS].transpose(1, 2).reshape(2, WIDTH, *GRID)
    expected = mmsm(feature_map, *text()).feature_map.flatten(2).transpose(1, 2)
    torch.testing.assert_close(image[:, :TOKENS], expected, atol=1e-5, rtol=1e-4)
    assert (image[:, :TOKENS] - plain[:, :TOKENS]).abs().amax(dim=2).min() > 1e-4  # every one of them


@pytest.mark.parametrize("path", BLOCKS)
def test_a_fresh_mixer_changes_no_bit(model: nn.Module, path: str) -> None:
    plain = denoise(model, latents(), TIMES, condition())
    with inject(model, {path: MMSM(24, WIDTH, 32, heads=4)}, *text(), grid=GRID, image_entry=1) as result:
        assert torch.equal(denoise(model, latents(), TIMES, condition()), plain)
    assert result.alignment_loss.shape == (2,)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_rows_without_text_pass_unchanged(model: nn.Module) -> None:
    plain, active = denoise(model, latents(), TIMES, condition()), torch.tensor([False, True])
    with inject(model, {BLOCKS[1]: trained_mmsm()}, *text(), active, GRID, 1):
        found = denoise(model, latents(), TIMES, condition())
    assert torch.equal(found[0], plain[0]) and not torch.equal(found[1], plain[1])


def test_checkpointing_changes_no_gradient() -> None:
    model, mmsm = build().train().requires_grad_(True), trained_mmsm().requires_grad_(True)

    def gradients() -> Iterator[Tensor]:
        for part in (model, mmsm):
            part.zero_grad()
        with inject(model, {BLOCKS[1]: mmsm, BLOCKS[2]: mmsm}, *text(), grid=GRID, image_entry=1):
            loss = denoise(model, latents(), TIMES, condition()).square().mean()
        loss.backward()
        return (value.grad.clone() for part in (model, mmsm) for value in part.parameters() if value.grad is not None)

    plain = list(gradients())
    model.enable_gradient_checkpointing()
    found = list(gradients())
    assert len(plain) == len(found) > 50
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(one, other)


def test_places_that_no_block_is_are_refused(model: nn.Module) -> None:
    assert set(kind_of(model).widths(model)) == set(BLOCKS)
    mixers = {"single_transformer_blocks.0.attn": trained_mmsm()}
    with inject(model, mixers, *text(), grid=GRID, image_entry=1), pytest.raises(InjectionError) as caught:
        denoise(model, latents(), TIMES, condition())
    assert "'single_transformer_blocks.0.attn': expected a block that gives text and image apart" in str(caught.value)


# Attention ----------------------------------------------------------------------------------------------------------


def attended(model: nn.Module, source: bool, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Probabilities of every token of every layer [B,heads,N,N], from what reaches the fused kernel."""
    found: list[Tensor] = []
    original = nn.functional.scaled_dot_product_attention

    def listen(query: Tensor, key: Tensor, value: Tensor, **named: object) -> Tensor:
        exponents = (torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5).exp()
        found.append(exponents / exponents.sum(dim=-1, keepdim=True))
        return original(query, key, value, **named)

    with monkeypatch.context() as patched:
        patched.setattr("torch.nn.functional.scaled_dot_product_attention", listen)
        denoise(model, latents(), TIMES, condition(source))
    return found


@pytest.mark.parametrize("source", [True, False])
def test_captured_maps_are_what_the_noisy_tokens_attend_with(
    model: nn.Module, source: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = denoise(model, latents(), TIMES, condition(source))
    with capture_attention(model, GRID) as capture:
        assert torch.equal(denoise(model, latents(), TIMES, condition(source)), plain)
    assert capture.layers == tuple(f"{block}.attn" for block in BLOCKS)
    expected = attended(model, source, monkeypatch)
    for found, whole in zip(capture.probabilities().values(), expected, strict=True):
        assert found.shape == (2, 2, TOKENS, TEXT)
        torch.testing.assert_close(found, whole[:, :, TEXT : TEXT + TOKENS, :TEXT], atol=1e-6, rtol=1e-4)
    assert capture.average().shape == (2, TEXT, *GRID)
    mean = sum(whole[1, :, TEXT + 8, 2].mean() for whole in expected) / len(expected)
    torch.testing.assert_close(capture.average()[1, 2, 1, 2], mean)


def test_maps_carry_gradients_to_the_text_and_wrong_sizes_are_named(model: nn.Module) -> None:
    given = condition()
    tokens = given.tokens.clone().requires_grad_()
    with capture_attention(model, GRID) as capture:
        denoise(model, latents(), TIMES, Conditioning(tokens, None, given.pooled, given.image_latents))
    (gradient,) = torch.autograd.grad(capture.average()[:, 1].square().sum(), tokens)
    assert gradient.abs().sum() > 1e-6
    with capture_attention(model, (16, 16)) as capture:
        denoise(model, latents(), TIMES, given)
    with pytest.raises(AttentionError, match=r"16x16: no cross-attention layer has 256 queries; .* have 48 "):
        capture.average()
