"""Modules attached to SDXL, PixArt and Stable Diffusion 3 (tiny, random) by path."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mmig.diffusion.injection import InjectionError, inject
from mmig.methods.mmig.mmsm import MMSM
from tests.mmig.diffusion.tiny_denoisers import BATCH, KINDS, Kind, build_pixart, draw

TEXT_DIM = 24
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def trained_mmsm(width: int) -> MMSM:
    torch.manual_seed(2)
    mmsm = MMSM(TEXT_DIM, width, 32, heads=4)
    nn.init.normal_(mmsm.feature_decoder[-1].weight, std=0.3)
    return mmsm


def text() -> tuple[Tensor, Tensor]:
    """e0 and its mask."""
    return draw(BATCH, 5, TEXT_DIM), torch.arange(5) < torch.tensor([[5], [3]])


def by_hand(name: str, model: nn.Module, kind: Kind, mix: Callable[[Tensor], Tensor]) -> Tensor:
    """The prediction with `mix` applied to the feature map [B,C,h,w] after the kind's location, hooks apart."""
    latents, condition, timesteps = kind.latents(), kind.condition(), torch.tensor([3, 900])
    if name == "sdxl":
        middle = model.mid_block
        whole = middle.forward
        middle.forward = lambda *given, **named: mix(whole(*given, **named))
        prediction = kind.call(model, latents, timesteps, condition)
        del middle.forward
        return prediction

    def mix_tokens(tokens: Tensor) -> Tensor:
        rows = [mix(row.T.reshape(1, -1, *kind.feature_grid)) for row in tokens]  # as rows: mixers see no other row
        return torch.cat([row.reshape(1, tokens.shape[2], -1) for row in rows]).transpose(1, 2)

    hidden = model.pos_embed(latents)
    if name == "pixart":
        told, embedded = model.adaln_single(
            timesteps, dict(condition.extra), batch_size=BATCH, hidden_dtype=hidden.dtype
        )
        tokens = model.caption_projection(condition.tokens)
        bias = torch.where(condition.mask, 0.0, -10000.0).unsqueeze(1)
        for index, block in enumerate(model.transformer_blocks):
            hidden = block(hidden, encoder_hidden_states=tokens, encoder_attention_mask=bias, timestep=told)
            hidden = mix_tokens(hidden) if index == 1 else hidden
        shift, scale = (model.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
        hidden = model.norm_out(hidden) * (1 + scale) + shift
    else:
        told, tokens = model.time_text_embed(timesteps, condition.pooled), model.context_embedder(condition.tokens)
        for index, block in enumerate(model.transformer_blocks):
            tokens, hidden = block(hidden, tokens, told)
            hidden = mix_tokens(hidden) if index == 1 else hidden
        hidden = model.norm_out(hidden, told)
    patches = model.proj_out(hidden).unflatten(1, kind.feature_grid).unflatten(3, (2, 2, -1))
    return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)[:, :4]


@pytest.mark.parametrize("name", KINDS)
def test_a_mixer_works_as_in_a_forward_written_by_hand(name: str) -> None:
    kind = KINDS[name]
    model, mmsm = kind.build(), trained_mmsm(kind.width)
    states, mask = text()
    rows = iter(range(BATCH))

    def mix(feature_map: Tensor) -> Tensor:
        own = slice(None) if len(feature_map) == BATCH else slice(row := next(rows), row + 1)
        return mmsm(feature_map, states[own], mask[own]).feature_map

    plain = kind.predict(model)
    with inject(model, {kind.location: mmsm}, states, mask) as result:
        found = kind.predict(model)
    expected = by_hand(name, model, kind, mix)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert (found - plain).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    assert result.alignment_loss.shape == (BATCH,)
    assert torch.equal(kind.predict(model), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@every_kind
def test_rows_without_text_pass_unchanged(kind: Kind) -> None:
    model, (states, mask) = kind.build(), text()
    plain = kind.predict(model)
    with inject(model, {kind.location: trained_mmsm(kind.width)}, states, mask, torch.tensor([False, True])):
        found = kind.predict(model)
    assert torch.equal(found[0], plain[0]) and not torch.equal(found[1], plain[1])


@every_kind
def test_checkpointing_changes_no_gradient_and_calls_the_mixer_once(kind: Kind) -> None:
    """The backward pass comes when nothing is attached any more, as in training."""
    model, mmsm, (states, mask) = kind.build().train(), trained_mmsm(kind.width), text()
    model.requires_grad_(True)
    calls: list[int] = []
    mmsm.register_forward_hook(lambda *_: calls.append(1))

    def gradients(inside: bool) -> dict[str, Tensor]:
        for part in (model, mmsm):
            part.zero_grad()
        with inject(model, {kind.location: mmsm}, states, mask) as result:
            loss = kind.predict(model).square().mean() + result.alignment_loss.mean()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        parts = {"model": model, "mmsm": mmsm}
        return {
            f"{part}.{name}": value.grad.clone()
            for part, module in parts.items()
            for name, value in module.named_parameters()
            if value.grad is not None
        }

    plain = gradients(inside=False)
    model.enable_gradient_checkpointing()
    for inside in (False, True):
        found = gradients(inside)
        assert found.keys() == plain.keys() and len(found) > 20
        for name, gradient in plain.items():
            torch.testing.assert_close(found[name], gradient, msg=lambda said, name=name: f"{name}: {said}")
    assert len(calls) == 3


def test_a_location_inside_of_what_is_computed_again_is_refused() -> None:
    model, (states, mask) = build_pixart(), text()
    path, mmsm = "transformer_blocks.1.attn1", trained_mmsm(48)
    with inject(model, {path: mmsm}, states, mask):
        KINDS["pixart"].predict(model)
    model.enable_gradient_checkpointing()
    message = rf"mmsm location '{path}': it lies inside of 'transformer_blocks\.1', which gradient checkpointing"
    with pytest.raises(InjectionError, match=message), inject(model, {path: mmsm}, states, mask):
        pass


@every_kind
def test_a_wrong_location_names_the_nearest_module(kind: Kind) -> None:
    model, (states, mask) = kind.build(), text()
    wrong = {"mid_block": "midblock"}.get(kind.location, "transformer_blocks.12")
    near = {"mid_block": "mid_block"}.get(kind.location, r"transformer_blocks\.[12]")
    message = rf"^mmsm location '{wrong}': \w+ has no such module; the nearest is '{near}' \(its parts are [^\n]*\)$"
    with pytest.raises(InjectionError, match=message), inject(model, {wrong: trained_mmsm(8)}, states, mask):
        pass


def test_of_two_sequences_that_fit_the_image_none_is_guessed() -> None:
    class Joint(nn.Module):
        def forward(self, image: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
            return words, image

    model, states, mask = nn.ModuleDict({"block": Joint()}), draw(1, 3, TEXT_DIM), torch.ones(1, 3)
    with inject(model, {"block": trained_mmsm(32)}, states, mask):
        words, image = model["block"](draw(1, 16, 32), draw(1, 7, 32))
        assert words.shape[1] == 7 and not torch.equal(image, draw(1, 16, 32))
        with pytest.raises(InjectionError, match="sequences of 9 and 16 tokens, of which 2 fit the image; give `grid`"):
            model["block"](draw(1, 16, 32), draw(1, 9, 32))
    with inject(model, {"block": trained_mmsm(32)}, states, mask, grid=(2, 8)):
        words, _ = model["block"](draw(1, 16, 32), draw(1, 9, 32))
        assert torch.equal(words, draw(1, 9, 32))
