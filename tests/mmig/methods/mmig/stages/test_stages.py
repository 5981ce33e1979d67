"""Stages 2 to 5: what trains, which losses count, and that every trained weight is reached."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from datamodules.schema import Batch
from mmig.checkpoints.checkpoint import CheckpointError, init_weights
from mmig.methods.mmig.image_path import ImagePathConfig
from mmig.methods.mmig.losses import Losses
from mmig.methods.mmig.objective import TERMS, ObjectiveConfig
from mmig.methods.mmig.parts import BackboneConfig
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage1, Stage2, Stage3, Stage4, Stage5
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.methods.mmig.stages.support import bare_batch, build_stage, world_batch
from tests.terms import counts_of, values_of
from tests.tiny_fixtures import TinyBackbones, build_all

MMSM, UNET = r"mmig\.mmsm\.", r"mmig\.unet\."
ADAPTERS = r"mmig\.mllm\.adapters\."
CONNECTOR = r"mmig\.captioner\.model\.(qformer|language_projection|query_tokens)"
TRAINED = {
    Stage1: MMSM,
    Stage2: f"{MMSM}|{ADAPTERS}",
    Stage3: f"{MMSM}|{UNET}",
    Stage4: f"{MMSM}|{ADAPTERS}|{UNET}",
    Stage5: f"{MMSM}|{ADAPTERS}|{UNET}|{CONNECTOR}",
}
L_DEM = {"sdm", "as", "ar", "fg", "bg"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def build(folders: TinyBackbones) -> Callable[..., MMIGStage]:
    return partial(build_stage, folders)


def backward(stage: MMIGStage, batch: Batch, seed: int = 0) -> dict[str, torch.Tensor]:
    draws = Draws(seed, batch["position"])
    values, counts = values_of(stage, batch, draws), counts_of(stage, batch, draws)
    assert values.keys() == counts.keys() == stage.loss_weights.keys()
    assert all(value.shape == (len(batch["key"]),) and value.isfinite().all() for value in values.values())
    sum((stage.loss_weights[name] * values[name] * counts[name]).sum() for name in values).backward()
    return values


def names_that_train(stage: MMIGStage) -> set[str]:
    return {name for name, parameter in stage.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", TRAINED)
def test_each_stage_trains_its_parts_and_stores_them(build: Callable[..., MMIGStage], kind: type[MMIGStage]) -> None:
    stage = build(kind)
    expected = {name for name, _ in stage.named_parameters() if re.match(TRAINED[kind], name)}
    assert expected == names_that_train(stage)
    # where there is an image tower, the projector counts in what the LLM says, trained or not
    adapters = {name for name in stage.state_dict() if re.match(ADAPTERS, name)} if kind is not Stage1 else set()
    assert stage.stored_names() == expected | adapters
    for part in ("unet", "mllm.adapters"):
        assert stage.mmig.get_submodule(part).training or part not in kind.trained_parts


@pytest.mark.parametrize("kind", [Stage2, Stage3, Stage4, Stage5])
def test_every_trained_weight_is_reached_within_two_steps_and_no_other(
    build: Callable[..., MMIGStage], kind: type[MMIGStage]
) -> None:
    stage, batch = build(kind), world_batch()
    before = {name: value.detach().clone() for name, value in stage.named_parameters()}
    optimizer = torch.optim.SGD([p for p in stage.parameters() if p.requires_grad], lr=1.0)
    reached: set[str] = set()
    for seed in range(2):
        backward(stage, batch, seed)
        reached |= {name for name, p in stage.named_parameters() if p.grad is not None and p.grad.any()}
        assert all(p.grad is not None for p in stage.parameters() if p.requires_grad)  # DDP waits for each of them
        for parameter in stage.parameters():
            if parameter.grad is not None:
                parameter.grad.clamp_(-1e-2, 1e-2)
        optimizer.step()
        optimizer.zero_grad()
    trained = names_that_train(stage)
    # adding one number to every key of an attention changes no softmax; tied or unused parts of the Q-Former
    unreachable = {name for name in trained if re.search(r"key\.bias|k_proj\.bias", name)}
    assert trained - reached <= unreachable
    assert reached <= trained
    for name, value in stage.named_parameters():
        assert name in trained or torch.equal(value, before[name]), name


def test_the_terms_add_up_as_printed() -> None:
    assert set(Stage5.counted_losses) == set(TERMS) and len(TERMS) == 8
    assert set(Stage3.counted_losses) == L_DEM | {"mmsm"}  # eq 21 and L_MMSM
    assert set(Stage5.counted_losses) - L_DEM == {"mmt", "blip2", "mmsm"}  # eq 22 - eq 21


def test_missing_fields_weigh_nothing_and_stay_connected(build: Callable[..., MMIGStage]) -> None:
    batch = bare_batch((0, 1))
    stage = build(Stage5)
    counts = counts_of(stage, batch, Draws(0, [0, 1]))
    assert counts["mmt"][0] > 0 and counts["mmt"][1] == 0
    assert counts["sdm"].tolist() == [0.0, 1.0]
    assert counts["blip2"][0] == 0 and counts["blip2"][1] > 0
    for name in ("as", "ar", "fg", "bg", "mmsm"):
        assert counts[name].tolist() == [0.0, 0.0], name
    backward(stage, batch)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stage.parameters() if p.requires_grad)


def test_a_sample_without_text_counts_in_no_loss_about_its_text(build: Callable[..., MMIGStage]) -> None:
    stage, batch = build(Stage5, objective=ObjectiveConfig(condition_drop=0.25)), world_batch(tuple(range(8)))
    draws = Draws(0, batch["position"])
    losses = Losses(stage.mmig, batch, draws, TERMS)
    has_text = losses.has_text
    assert 0 < has_text.sum() < 8
    counts = counts_of(stage, batch, draws)
    assert counts["sdm"].tolist() == [1.0] * 8
    for name in ("as", "ar", "fg", "bg", "mmsm", "blip2"):
        assert not counts[name][~has_text].any(), name
    tokens = losses.problem.condition.tokens
    assert torch.equal(tokens[~has_text], stage.mmig.encode_text([""] * int((~has_text).sum())))


def test_equal_masks_split_the_noise_loss(build: Callable[..., MMIGStage]) -> None:
    """L_fg + L_bg is L_SDM's mean under the same condition (eq 14, 17, 18), alpha 1 making e_opt the object's text."""
    stage, batch = build(Stage3, objective=ObjectiveConfig(alpha=1.0)), world_batch()
    batch["reference_mask"] = batch["target_mask"]
    batch["response"] = batch["object_phrase"]
    with torch.no_grad():
        values = values_of(stage, batch, Draws(0, batch["position"]))
    torch.testing.assert_close(values["fg"] + values["bg"], values["sdm"])


def test_a_stage_names_the_backbone_it_lacks(folders: TinyBackbones) -> None:
    backbones = BackboneConfig(str(folders.stable_diffusion), str(folders.llama))
    with pytest.raises(ValueError, match=r"Stage2 needs backbones\.vision"):
        Stage2(backbones, OptimizerConfig())
    with pytest.raises(ValueError, match=r"Stage5 needs backbones\.captioner"):
        Stage5(BackboneConfig(backbones.diffusion, backbones.llm, vision="x"), OptimizerConfig())


@pytest.mark.parametrize("kind", [Stage1, Stage2])
def test_the_strict_profile_leaves_no_trained_weight_without_gradient(
    build: Callable[..., MMIGStage], kind: type[MMIGStage]
) -> None:
    stage = build(kind, profile="strict")
    backward(stage, world_batch())
    assert all(p.grad is not None for p in stage.parameters() if p.requires_grad)  # DDP waits for each of them


def test_without_its_loss_the_captioner_does_not_train(build: Callable[..., MMIGStage]) -> None:
    stage = build(Stage5, loss_weights={"sdm": 1.0, "mmsm": 1.0})
    assert not any("captioner" in name for name in names_that_train(stage))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_weights": {"sdn": 1.0}}, "no loss 'sdn'; expected some of sdm"),
        ({"loss_weights": {"sdm": 1.0}, "profile": "strict"}, "give one of them"),
        (
            {"objective": ObjectiveConfig(image_path=ImagePathConfig(deliberate_share=0.5))},
            "for the loss 'blip2', which is off",
        ),
    ],
)
def test_settings_that_contradict_each_other(build: Callable[..., MMIGStage], settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(Stage3, **settings)


def test_dropped_long_responses_take_their_concepts_along(build: Callable[..., MMIGStage]) -> None:
    objective = ObjectiveConfig(condition_drop=0.49, max_text_chunks=2)
    stage, batch = build(Stage3, objective=objective), world_batch((0, 1))
    batch["response"] = [text + " and a cat" * 40 for text in batch["response"]]
    for seed in range(4):  # some of them drop all long responses, so that one chunk is left
        values = values_of(stage, batch, Draws(seed, batch["position"]))
        assert values["as"].isfinite().all()


def test_concepts_that_the_attention_losses_lost_are_logged(build: Callable[..., MMIGStage]) -> None:
    stage, batch = build(Stage3), world_batch((0, 1))
    batch["response"] = ["nothing of all that", " and ".join(["so"] * 90 + [*batch["concepts"][1]])]
    given = [len(concepts) for concepts in batch["concepts"]]
    values_of(stage, batch, Draws(0, batch["position"]))
    logged = stage.logged()
    assert logged["concepts_missing"] == given[0] / 2
    assert logged["concepts_truncated"] == given[1] / 2
    assert not [name for name in build(Stage1).logged() if name.startswith("concepts")]


def test_stage_four_needs_the_adapters_that_stage_two_trained(build: Callable[..., MMIGStage]) -> None:
    first = build(Stage1)
    weights = {name: value for name, value in first.state_dict().items() if name in first.stored_names()}
    checkpoint = {"state_dict": weights, "step": 1, "backbones": first.describe_backbones()}
    init_weights(build(Stage2), checkpoint)
    with pytest.raises(CheckpointError, match=r"lacks .*mmig\.mllm\.adapters"):
        init_weights(build(Stage4), checkpoint)
    checkpoint["backbones"]["llm"]["fingerprint"] = "another"
    with pytest.raises(ValueError, match="backbone llm"):
        init_weights(build(Stage2), checkpoint)


def test_another_noise_schedule_or_tokenizer_is_another_backbone(build: Callable[..., MMIGStage]) -> None:
    stage = build(Stage1)
    described = stage.describe_backbones()
    assert described.keys() == {"vae", "text_encoder", "tokenizer", "scheduler", "unet", "llm", "llm_tokenizer"}
    for part in ("scheduler", "tokenizer", "llm_tokenizer"):
        saved = described | {part: described[part] | {"fingerprint": "another"}}
        with pytest.raises(ValueError, match=f"backbone {part}: .*give the same files"):
            stage.check_backbones(saved)
