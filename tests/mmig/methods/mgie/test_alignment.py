"""MGIE's edit head is drawn to the denoiser's own text states of the expressive instruction."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmig.methods.mgie.module import MGIEModule
from tests.mmig.methods.mgie.support import HEAD, batch, folders, module
from tests.mmig.methods.mgie.test_mgie import backward, draws, dropping
from tests.mmig.methods.mmig.stages.support import recorded
from tests.terms import counts_of, values_of
from tests.tiny_diffusion import CONTEXT_LENGTH

WEIGHTS = {"text": 1.0, "align": 1.0}


def aligned(**settings: Any) -> MGIEModule:
    """A module with the term and no noise loss."""
    head = replace(HEAD, num_queries=CONTEXT_LENGTH)
    given = {"text_encoder": str(folders()[0]), "head": head, "loss_weights": WEIGHTS, **settings}
    return module(**given)


def states_of(model: MGIEModule, texts: list[str]) -> torch.Tensor:
    """CLIP's states by transformers' own call."""
    ids = model.tokenizer(
        texts, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    return model.text_encoder(ids).last_hidden_state


@torch.no_grad()
def test_it_is_the_mean_squared_distance_to_clips_states() -> None:
    model, data = aligned(drop=0.0), batch()
    encoded = model.writer.encode(data["instruction"], data["expressive"])
    states = model.writer.states(encoded, model.writer.visual_tokens(data["source"]))
    guidance = model.head(states, model.writer.tokens.input_rows())
    expected = (guidance - states_of(model, data["expressive"])).square().mean(dim=(1, 2))
    torch.testing.assert_close(values_of(model, data, draws(data))["align"], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_without_text_the_null_guidance_is_drawn_to_that_of_no_text() -> None:
    model, data, drawn = aligned(), batch(), dropping((True, False))
    null = model.head(torch.zeros(1, 8, model.head.config.in_dim), model.writer.tokens.input_rows())
    expected = (null - states_of(model, [""])).square().mean().expand(4)
    torch.testing.assert_close(values_of(model, data, drawn)["align"], expected, rtol=1e-4, atol=1e-5)


def test_without_the_noise_loss_the_denoiser_rests() -> None:
    model, data = aligned(), batch()
    with recorded(model.unet) as calls:
        backward(model, data)
    assert not calls and not any(parameter.requires_grad for parameter in model.unet.parameters())
    assert all(parameter.grad is not None for parameter in model.head.parameters())
    both = aligned(loss_weights={**WEIGHTS, "sdm": 0.5})
    backward(both, data)
    assert all(parameter.grad is not None for parameter in both.unet.parameters())


@torch.no_grad()
def test_a_sample_needs_its_text_and_no_goal() -> None:
    data = batch()
    data["has_target"], data["has_expressive"] = torch.zeros(4, dtype=torch.bool), torch.tensor([True, False] * 2)
    assert counts_of(aligned(), data, draws(data))["align"].tolist() == [1, 0, 1, 0]


def test_what_it_needs_is_asked_for_in_a_line() -> None:
    with pytest.raises(ValueError, match=r"align needs the denoiser's text encoder; give text_encoder$"):
        module(loss_weights=WEIGHTS)
    with pytest.raises(ValueError, match=rf"has {CONTEXT_LENGTH} states, but the head 7 queries; set head.num_queries"):
        aligned(head=HEAD)
