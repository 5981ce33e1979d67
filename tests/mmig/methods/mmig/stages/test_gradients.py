"""What learns from what: the LLM from the denoiser, and every weight alike however a batch is cut."""

import pytest
import torch

from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage2, Stage4, Stage5
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.methods.mmig.stages.support import positions_at, seeing_backbones, settled_stage, world_batch
from tests.mmig.methods.mmig.stages.test_total import one_step
from tests.terms import values_of
from tests.tiny_fixtures import TinyBackbones


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return seeing_backbones(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("kind", [Stage2, Stage4, Stage5])
def test_the_noise_loss_alone_teaches_the_llm(folders: TinyBackbones, kind: type[MMIGStage]) -> None:
    """z_d is text: e0 through MMSM is the only way from the denoiser to the adapters (reference, 2.3)."""
    stage, batch = settled_stage(folders, kind), world_batch((0, 1))
    value = values_of(stage, batch, Draws(0, batch["position"]))["sdm"].sum()
    names, adapters = zip(*stage.mmig.mllm.adapters.named_parameters(), strict=True)
    gradients = torch.autograd.grad(value, adapters)  # raises where one is not reached
    reached = {name for name, gradient in zip(names, gradients, strict=True) if gradient.any()}
    for part in ("llm.0.down.weight", "llm.0.ups.1.weight", "vision.0.down.weight", "projector.up.weight", "modality"):
        assert any(name.startswith(part) for name in reached), part


def test_micro_batches_give_the_gradient_of_the_whole_batch(folders: TinyBackbones) -> None:
    """Stage 5 with texts of unequal length: padding, missing rows and counts do not depend on the cut."""
    positions = [*positions_at(lambda part: part < 0.25, 1), 1, 2, 4]
    batch = world_batch(positions)
    assert len({len(text.split()) for text in batch["response"]}) > 2
    stage = settled_stage(folders, Stage5, optimizer=OptimizerConfig(lr=0.0, weight_decay=0.0, clip_norm=None))
    found = []
    for size in (None, 1):
        stage.micro_batch_size, stage.step = size, 0
        logged = one_step(stage, batch)
        found.append({name: p.grad.clone() for name, p in stage.named_parameters() if p.requires_grad})
        assert logged["train/blip2"] > 0
    whole, cut = found
    for name, gradient in whole.items():  # in float32, through a BLIP-2 with large weights
        assert torch.allclose(cut[name], gradient, rtol=1e-2, atol=5e-5), name
    for part in Stage5.trained_parts:
        names = [name for name in whole if name.startswith(f"mmig.{part}.")]
        one, other = (torch.cat([gradients[name].flatten() for name in names]) for gradients in found)
        assert (other - one).norm() < 1e-4 * one.norm(), part
