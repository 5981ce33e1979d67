"""Stage 1: what trains, what counts, what the losses are."""

import pytest
import torch

from mmig.methods.mmig.parts import BackboneConfig, MMSMConfig
from mmig.methods.mmig.pipeline import SamplingConfig
from mmig.methods.mmig.stages.paper import Stage1
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.batches import edit_batch
from tests.terms import counts_of, values_of
from tests.tiny_fixtures import TinyBackbones, build_all


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


def stage1(folders: TinyBackbones, concat: bool = True, **settings: object) -> Stage1:
    torch.manual_seed(0)
    unet = str(folders.instruct_pix2pix) if concat else None
    return Stage1(
        BackboneConfig(str(folders.stable_diffusion), str(folders.llama), unet=unet),
        OptimizerConfig(),
        MMSMConfig(dim=16, heads=2),
        source_conditioning="concat" if concat else "img2img",
        sampling=SamplingConfig(num_steps=2, strength=0.5),
        **settings,
    )


def total(stage: Stage1, names: tuple[str, ...]) -> torch.Tensor:
    batch = edit_batch()
    values = values_of(stage, batch, Draws(0, batch["position"]))
    return sum(values[name].sum() for name in names)


def test_only_the_mutual_support_module_trains(folders: TinyBackbones) -> None:
    stage = stage1(folders)
    trained = {name for name, parameter in stage.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in stage.named_parameters() if name.startswith("mmig.mmsm.")}
    assert stage.stored_names() == set(stage.state_dict()) & trained


def test_a_new_module_changes_nothing(folders: TinyBackbones) -> None:
    model, batch = stage1(folders).mmig, edit_batch()
    condition = model.condition(batch["response"], batch["source"], batch["has_source"])
    states = model.answer(batch).states
    noisy, timesteps = torch.randn(4, 4, 16, 16), torch.full((4,), 500)
    with_module, _ = model.denoise(noisy, timesteps, condition, states)
    without, _ = model.denoise(noisy, timesteps, condition, states, active=torch.zeros(4, dtype=torch.bool))
    assert torch.equal(with_module, without)


def test_alignment_alone_reaches_neither_attention_nor_decoder(folders: TinyBackbones) -> None:
    stage = stage1(folders)
    total(stage, ("mmsm",)).backward()
    module = stage.mmig.mmsm["mid_block"]
    reached = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"text_encoder", "feature_encoder"}


def test_noise_loss_reaches_every_parameter_within_two_steps(folders: TinyBackbones) -> None:
    stage = stage1(folders)
    optimizer = torch.optim.SGD([p for p in stage.parameters() if p.requires_grad], lr=1.0)
    total(stage, ("mmsm", "sdm")).backward()
    optimizer.step()
    optimizer.zero_grad()
    total(stage, ("mmsm", "sdm")).backward()
    for name, parameter in stage.named_parameters():
        # adding one number to every key of an attention changes no softmax
        if parameter.requires_grad and not name.endswith("key.bias"):
            assert parameter.grad is not None and parameter.grad.any(), name
        assert parameter.requires_grad or parameter.grad is None


def test_sample_without_response_has_no_alignment(folders: TinyBackbones) -> None:
    stage, batch = stage1(folders), edit_batch()
    assert values_of(stage, batch, Draws(0, batch["position"]))["mmsm"][3] == 0
    assert counts_of(stage, batch, Draws(0, batch["position"]))["mmsm"].tolist() == [1, 1, 1, 0]


def test_losses_do_not_depend_on_the_batch(folders: TinyBackbones) -> None:
    stage, batch = stage1(folders), edit_batch()
    together = values_of(stage, batch, Draws(0, batch["position"]))
    alone = {name: value[1:2] if len(value) == 4 else value for name, value in batch.items()}
    single = values_of(stage, alone, Draws(0, alone["position"]))
    for name in together:
        torch.testing.assert_close(together[name][1], single[name][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("concat", [True, False])
def test_pipeline_edits_without_depending_on_the_batch(folders: TinyBackbones, concat: bool) -> None:
    editor, batch = stage1(folders, concat).make_pipeline(), edit_batch(2)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    together = editor(batch, generators).images
    assert together.shape == (2, 3, 64, 64) and together.abs().max() <= 1
    alone = {name: value[1:] if len(value) == 2 else value for name, value in batch.items()}
    single = editor(alone, [torch.Generator().manual_seed(1)]).images
    torch.testing.assert_close(together[1], single[0], rtol=1e-3, atol=1e-4)


def test_pipeline_writes_a_response_where_none_is_given(folders: TinyBackbones) -> None:
    stage = stage1(folders)
    stage.sampling.response = "generated"
    editor = stage.make_pipeline()
    assert editor.required_fields == ("source", "instruction")
    assert len(editor(edit_batch(2), torch.Generator().manual_seed(0)).texts) == 2


def test_four_channel_unet_cannot_take_the_source_beside_the_noise(folders: TinyBackbones) -> None:
    with pytest.raises(ValueError, match="needs a UNet with 8 input channels, found 4"):
        Stage1(
            BackboneConfig(str(folders.stable_diffusion), str(folders.llama)),
            OptimizerConfig(),
            MMSMConfig(dim=16, heads=2),
            source_conditioning="concat",
        )


def test_unknown_location_names_those_that_exist(folders: TinyBackbones) -> None:
    with pytest.raises(ValueError, match=r"no block 'middle'.*mid_block"):
        Stage1(
            BackboneConfig(str(folders.stable_diffusion), str(folders.llama)),
            OptimizerConfig(),
            MMSMConfig(dim=16, heads=2, locations=["middle"]),
        )
