"""L_BLIP2 of stage 5 by hand: the image that a prediction stands for, its caption's loss, and whom that teaches."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from mmig.methods.mmig.image_path import ImagePathConfig
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage5
from mmig.training.rng import Draws
from tests.mmig.methods.mmig.stages.support import (
    ByHand,
    mmig_values,
    positions_at,
    recorded,
    seeing_backbones,
    settled_stage,
    world_batch,
)
from tests.terms import counts_of

EARLY = positions_at(lambda part: part < 0.25, 2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> MMIGStage:
    return settled_stage(seeing_backbones(tmp_path_factory.mktemp("tiny")), Stage5)


@pytest.fixture
def stage(built: MMIGStage) -> Iterator[MMIGStage]:
    before = built.mmig.objective
    yield built
    built.mmig.objective = before


def choose(stage: MMIGStage, **settings: object) -> None:
    stage.mmig.objective = replace(stage.mmig.objective, image_path=ImagePathConfig(**settings))


def test_the_captioner_reads_the_decoded_x0_of_forward_a(stage: MMIGStage) -> None:
    model, batch, draws = stage.mmig, world_batch(EARLY), Draws(0, EARLY)
    with recorded(model.unet) as calls, torch.no_grad():
        values = mmig_values(model, batch, draws, ("sdm", "fg", "bg", "blip2"))
    hand = ByHand(model, batch, draws)
    kept = hand.scheduler.alphas_cumprod[hand.timesteps].view(-1, 1, 1, 1)
    noisy = hand.inputs(hand.timesteps)[:, :4]
    with torch.no_grad():
        clean = (noisy - (1 - kept).sqrt() * calls[0].output.sample) / kept.sqrt()
        images = model.vae.decode(clean / model.vae.config.scaling_factor).sample
        losses = model.captioner.loss(images, model.captioner.encode(batch["target_caption"]))
    torch.testing.assert_close(values["blip2"], 4 * losses.values, rtol=1e-4, atol=1e-4)
    assert (hand.timesteps < 250).all() and values["blip2"].min() > 0
    assert torch.equal(counts_of(stage, batch, draws)["blip2"], losses.counts)


def test_late_timesteps_are_not_captioned(stage: MMIGStage) -> None:
    positions = [EARLY[0], *positions_at(lambda part: part >= 0.25, 1)]
    with torch.no_grad():
        values = mmig_values(stage.mmig, world_batch(positions), Draws(0, positions), ("blip2",))["blip2"]
    assert values[0] > 0 and values[1] == 0


@pytest.mark.parametrize("blip_grad", ["both", "captioner"])
def test_whom_the_term_alone_teaches(stage: MMIGStage, blip_grad: str) -> None:
    choose(stage, blip_grad=blip_grad)
    model = stage.mmig
    value = mmig_values(model, world_batch(EARLY), Draws(0, EARLY), ("blip2",))["blip2"].sum()
    parts = {"unet": model.unet, "mmsm": model.mmsm, "adapters": model.mllm.adapters, "q_former": model.captioner}
    for name, part in parts.items():
        trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
        found = torch.autograd.grad(value, trained, allow_unused=True, retain_graph=True)
        if name == "q_former" or blip_grad == "both":
            assert any(gradient is not None and gradient.any() for gradient in found), name
        else:
            assert all(gradient is None for gradient in found), name


def test_rows_drawn_for_the_captioner_leave_the_noise_losses(stage: MMIGStage) -> None:
    choose(stage, deliberate_share=0.5, decode_batch=6)
    positions = range(6)
    batch, draws = world_batch(positions), Draws(0, positions)
    chosen = draws.bernoulli("captioned", 0.5)
    assert 0 < chosen.sum() < 6
    counts = counts_of(stage, batch, draws)
    for name in ("sdm", "fg", "bg"):
        assert torch.equal(counts[name], (~chosen).float()), name
    assert all((counts[name] > 0).all() for name in ("blip2", "as", "mmsm", "mmt"))
    with torch.no_grad():
        values = mmig_values(stage.mmig, batch, draws, ("blip2",))["blip2"]
    assert torch.equal(values > 0, chosen)
    assert (stage.timesteps(draws)[chosen] < 250).all()
