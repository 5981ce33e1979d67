"""Training of MGIE and LGIE: what counts, what trains, what is dropped."""

import logging
from typing import Any

import pytest
import torch

from mmig.backbones.diffusion import load_unet
from mmig.diffusion.conditioning import Conditioning, condition_drops, denoise
from mmig.methods.mgie.module import MGIEModule
from mmig.training.optim import OptimizerConfig, OptimizerGroup, parameters_by_group
from mmig.training.rng import Draws
from mmig.training.terms import stacked, total_loss
from tests.mmig.methods.mgie.support import batch, folders, module
from tests.mmig.methods.mmig.stages.support import recorded
from tests.terms import counts_of, values_of


def draws(data: Any, seed: int = 0) -> Draws:
    return Draws(seed, data["position"])


def dropping(pattern: tuple[bool, bool]) -> Draws:
    """Draws of four samples that all lose (text, picture) with d = 0.05."""
    positions = [
        position for position in range(2000) if tuple(map(bool, condition_drops(uniform(position), 0.05))) == pattern
    ]
    return Draws(0, positions[:4])


def uniform(position: int) -> torch.Tensor:
    return Draws(0, [position]).uniform("condition_drop")


def backward(model: MGIEModule, data: Any) -> None:
    values, counts = stacked(model.losses(data, draws(data)))
    weights = torch.tensor(list(model.loss_weights.values()))
    total_loss((values * counts).sum(dim=0), counts.sum(dim=0), weights).backward()


@torch.no_grad()
def test_the_total_is_the_text_loss_and_half_of_the_edit_loss() -> None:
    model, data = module(), batch()
    data["has_target"] = torch.tensor([True, True, False, True])
    terms = model.losses(data, draws(data))
    values, counts = stacked(terms)
    weights = torch.tensor(list(model.loss_weights.values()))
    total = total_loss((values * counts).sum(dim=0), counts.sum(dim=0), weights)
    encoded = model.writer.encode(data["instruction"], data["expressive"])
    loss, _ = model.writer(encoded, model.writer.visual_tokens(data["source"]))
    text, edit = loss.sums.sum() / loss.counts.sum(), values[[0, 1, 3], 1].mean()
    assert list(terms) == ["text", "sdm"]
    torch.testing.assert_close(total, text + 0.5 * edit)


@torch.no_grad()
def test_the_edit_loss_is_that_of_the_guided_unet() -> None:
    model, data = module(drop=0.0), batch()
    drawn = draws(data)
    found = values_of(model, data, drawn)["sdm"]
    encoded = model.writer.encode(data["instruction"], data["expressive"])
    states = model.writer.states(encoded, model.writer.visual_tokens(data["source"]))
    guidance = model.head(states, model.writer.tokens.input_rows())
    posterior = model.vae.encode(data["target"]).latent_dist
    clean = posterior.mean + posterior.std * drawn.normal("posterior", posterior.mean.shape[1:])
    clean = clean * model.vae.config.scaling_factor
    source = model.vae.encode(data["source"]).latent_dist.mode()
    noise, timesteps = drawn.normal("noise", clean.shape[1:]), model.timesteps(drawn)
    noisy = model.process.add_noise(clean, noise, timesteps)
    predicted = denoise(model.unet, noisy, timesteps, Conditioning(guidance, image_latents=source))
    torch.testing.assert_close(found, (predicted - noise).square().mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-5)


def test_the_unet_starts_as_the_four_channel_one_with_its_bias() -> None:
    wide, narrow = module().unet, load_unet(folders()[0])
    assert torch.equal(wide.conv_in.bias, narrow.conv_in.bias) and not wide.conv_in.weight[:, 4:].any()


def test_gradients_reach_what_trains_and_nothing_else() -> None:
    model, data = module(), batch()
    assert {name.partition(".")[0] for name, value in model.named_parameters() if value.requires_grad} == {
        "writer",
        "head",
        "unet",
    }
    backward(model, data)
    tables = {"llm.model.language_model.embed_tokens.weight", "llm.lm_head.weight"}
    for name, parameter in model.writer.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (name in tables), name
    assert model.head.queries.grad.any() and model.unet.conv_in.weight.grad[:, 4:].any()
    assert model.vae.encoder.conv_in.weight.grad is None
    assert {name for name in model.stored_names() if not name.startswith(("unet.", "head."))} == {
        f"writer.{name}" for name in tables
    }


def test_the_edit_loss_alone_trains_the_embeddings_of_the_image_tokens() -> None:
    model, data = module(loss_weights={"sdm": 0.5}), batch()
    assert list(model.losses(data, draws(data))) == ["sdm"]
    backward(model, data)
    tables = model.writer.llm.get_input_embeddings().weight, model.writer.llm.get_output_embeddings().weight
    assert tables[0].grad[model.writer.image_ids].any()
    assert not tables[1].requires_grad  # nothing reaches it


def test_the_two_parts_have_two_learning_rates() -> None:
    config = OptimizerConfig(lr=5e-4, weight_decay=0.0, groups={"unet": OptimizerGroup(lr=1e-4)})
    model = module(config)
    groups = parameters_by_group(model.named_parameters(), config)
    assert {id(p) for p in groups["unet"]} == {id(p) for p in model.unet.parameters()}
    (optimizer,) = model.configure_optimizers()
    assert {group["lr"] for group in optimizer.param_groups} == {5e-4, 1e-4}


def test_decay_of_whole_tables_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        module(OptimizerConfig(weight_decay=0.01))
    assert "language.rows: all, with weight decay 0.01" in caplog.text


@torch.no_grad()
def test_without_text_the_guidance_is_the_null_one_and_follows_the_embeddings() -> None:
    model, data, drawn = module(), batch(), dropping((True, False))
    data["position"] = torch.tensor(drawn.positions)
    with recorded(model.unet) as calls:
        values_of(model, data, drawn)
    null = model.head(torch.zeros(1, 8, model.head.config.in_dim), model.writer.tokens.input_rows())
    torch.testing.assert_close(calls[0].named["encoder_hidden_states"], null.expand(4, -1, -1))
    model.writer.llm.get_input_embeddings().weight[model.writer.image_ids] += 1.0
    with recorded(model.unet) as later:
        values_of(model, data, drawn)
    assert not torch.allclose(later[0].named["encoder_hidden_states"], null.expand(4, -1, -1), atol=1e-4)


@pytest.mark.parametrize("pattern", [(False, False), (True, False), (True, True), (False, True)])
@torch.no_grad()
def test_what_is_dropped_changes_nothing(pattern: tuple[bool, bool]) -> None:
    model, data, drawn = module(sees=False), batch(), dropping(pattern)
    model.unet.conv_in.weight[:, 4:] = 0.1
    before = values_of(model, data, drawn)["sdm"]
    other = values_of(model, data | {"expressive": ["a star"] * 4}, drawn)["sdm"]
    assert torch.equal(before, other) == pattern[0]
    pictures = values_of(model, data | {"source": data["source"].flip(0)}, drawn)["sdm"]
    assert torch.equal(before, pictures) == pattern[1]


@torch.no_grad()
def test_mgie_sees_the_picture_and_lgie_does_not() -> None:
    data = batch()
    for sees in (True, False):
        model = module(sees=sees)
        with recorded(model.writer.llm.model.vision_tower) as calls:
            before = values_of(model, data, draws(data))["text"]
            after = values_of(model, data | {"source": data["source"].flip(0)}, draws(data))["text"]
        assert torch.equal(before, after) == (not sees)
        assert len(calls) == (2 if sees else 0)


def test_a_sample_without_text_or_picture_counts_nothing() -> None:
    data = batch()
    data["expressive"][1], data["has_expressive"] = "", torch.tensor([True, False, True, True])
    data["has_source"] = torch.tensor([True, True, False, True])
    seeing, blind = module(), module(sees=False)
    for model, usable in ((seeing, [True, False, False, True]), (blind, [True, False, True, True])):
        counts = counts_of(model, data, draws(data))
        assert (counts["text"] > 0).tolist() == (counts["sdm"] > 0).tolist() == usable
        assert model.logged()["text_missing"].item() == 1 - sum(usable) / 4
    values = values_of(seeing, data, draws(data))
    assert all(value.isfinite().all() for value in values.values())


def test_a_text_that_would_lose_its_image_tokens_counts_nothing_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    from mmig.methods.mgie.writer import WriterConfig

    model, data = module(language=WriterConfig(max_length=110)), batch()
    data["expressive"][2] = "very " * 80
    with caplog.at_level(logging.WARNING):
        counts = counts_of(model, data, draws(data))
    assert (counts["text"] > 0).tolist() == (counts["sdm"] > 0).tolist() == [True, True, False, True]
    assert model.logged()["text_cut"].item() == 0.25
    assert "sample 'sample2'" in caplog.text and "longer than language.max_length (110)" in caplog.text


def test_a_weight_for_another_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="loss_weights: no loss 'mmt'; expected some of text, sdm"):
        module(loss_weights={"mmt": 1.0})
