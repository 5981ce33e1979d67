"""Mutual support modules that start at a size in place of zero: how large, when it is measured, and how runs go on."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.checkpoints.checkpoint import init_weights, read_start
from mmig.methods.mmig.mmsm import MMSM
from mmig.methods.mmig.parts import MMSMConfig
from mmig.methods.mmig.pipeline import MMIGPipeline, SamplingConfig
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage1, Stage3
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.golden.samples import loader
from tests.mmig.methods.mmig.stages.support import build_stage, world_batch
from tests.mmig.methods.mmig.stages.test_connectors import train
from tests.terms import values_of
from tests.tiny_fixtures import TinyBackbones, build_all

PLACES = ["up_blocks.0", "mid_block"]  # the denoiser reaches them in the other order
STILL = OptimizerConfig(lr=0.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


def stage_at(folders: TinyBackbones, start: float, kind: type[MMIGStage] = Stage1, **more: object) -> MMIGStage:
    settings = {"sampling": SamplingConfig(num_steps=2, guidance_scale=2.0)} | more
    return build_stage(folders, kind, mmsm=MMSMConfig(16, 2, PLACES, start), **settings)


def added(stage: MMIGStage, batch: Batch) -> dict[str, Tensor]:
    """What each module adds to its feature map in the step's own forward, of the samples with a response."""
    found: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(
            lambda _module, inputs, output, name=name: found.update({name: output.feature_map - inputs[0]})
        )
        for name, module in stage.mmig.mmsm.items()
    ]
    with torch.no_grad():
        values_of(stage.eval(), batch, Draws(stage.seed, batch["position"]))
    for handle in handles:
        handle.remove()
    return {name: change[batch["has_response"]] for name, change in found.items()}


def test_before_the_first_step_what_is_added_has_its_part_of_the_text_states_size(folders: TinyBackbones) -> None:
    stage, batch = stage_at(folders, 0.5, optimizer=STILL, micro_batch_size=2), next(iter(loader(0, 1)))
    assert all(not change.any() for change in added(stage, batch).values())
    train(stage)
    with torch.no_grad():
        text = stage.mmig.encode_text([text for text in batch["response"] if text])
    expected = 0.5 * text.square().mean().sqrt()
    changes = added(stage, batch)
    assert list(changes) == ["mid_block", "up_blocks-0"]
    for change in changes.values():
        torch.testing.assert_close(change.square().mean().sqrt(), expected, rtol=1e-3, atol=0)


def test_it_trains_from_the_first_step_on(folders: TinyBackbones) -> None:
    """A decoder that starts at zero keeps gradients from what stands before it for one step."""
    batch = world_batch()
    for start, reached in ((0.0, False), (0.5, True)):
        stage = stage_at(folders, start, loss_weights={"sdm": 1.0})
        for module in stage.mmig.mmsm.values() if start else ():
            module.scale.fill_(0.1)
        values_of(stage, batch, Draws(0, batch["position"]))["sdm"].sum().backward()
        attention = stage.mmig.mmsm["mid_block"].cross_attention
        assert bool(attention.value.weight.grad.any()) == reached


def test_the_size_is_measured_once_and_goes_with_the_weights(folders: TinyBackbones, tmp_path: Path) -> None:
    first = stage_at(folders, 0.5)
    trainer = train(first)
    scales = [module.scale.clone() for module in first.mmig.mmsm.values()]
    assert all(scale > 0 for scale in scales) and "mmig.mmsm.mid_block.scale" in first.stored_names()
    trainer.save_checkpoint(tmp_path / "one.ckpt", weights_only=False)
    later = stage_at(folders, 0.5, Stage3)
    assert init_weights(later, read_start(later, tmp_path / "one.ckpt")) == []
    with torch.no_grad():  # were it measured again, it would be another one
        later.mmig.mmsm["mid_block"].feature_decoder[-1].weight *= 3
    train(later)
    assert [module.scale for module in later.mmig.mmsm.values()] == scales


def test_saved_and_opened_it_edits_the_same_to_the_bit(folders: TinyBackbones, tmp_path: Path) -> None:
    stage, batch = stage_at(folders, 0.5).eval(), world_batch((0, 1))
    for module in stage.mmig.mmsm.values():
        module.scale.fill_(0.3)
    before = stage.make_pipeline()(batch, 3).images
    stage.make_pipeline().pipeline.save_pretrained(tmp_path / "folder")
    pipeline = MMIGPipeline.from_pretrained(tmp_path / "folder")
    assert {module.start for module in pipeline.connectors.mmsm.values()} == {0.5}
    after = pipeline.edit(batch["source"], batch["instruction"], batch["response"], stage.sampling, 3).images
    assert torch.equal(before, after)


def test_without_a_start_there_is_no_size_to_store(folders: TinyBackbones) -> None:
    assert not [name for name in stage_at(folders, 0.0).state_dict() if name.endswith(".scale")]


@pytest.mark.parametrize("start", [-0.1, float("inf"), float("nan")])
def test_a_start_that_is_no_size_is_refused(start: float) -> None:
    with pytest.raises(ValueError, match=r"mmsm\.start: expected a number of at least 0, found"):
        MMSM(8, 8, 8, 4, start)
