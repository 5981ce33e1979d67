"""Cached features: the same losses, without the frozen parts that made them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.schema import Sample, collate
from mmig.backbones.fingerprint import fingerprint
from mmig.cache.facts import StaleFeaturesError
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.latent_diffusion.text_to_image import TextToImageModule
from mmig.methods.mmig.objective import ObjectiveConfig
from mmig.methods.mmig.stages.paper import Stage1, Stage2, Stage3
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from tests.mmig.cache.cached_batches import cached_batch, cached_samples, losses, world_samples
from tests.mmig.methods.mmig.stages.support import build_stage, counted, settled_stage
from tests.tiny_fixtures import TinyBackbones, build_all, build_vae


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


def editor(folders: TinyBackbones, **settings: Any) -> InstructPix2PixModule:
    torch.manual_seed(0)
    root = str(folders.stable_diffusion)
    return InstructPix2PixModule(OptimizerConfig(), {"sdm": 1.0}, root, root, **settings)


def assert_same_losses(method: TrainingModule, samples: list[Sample], **settings: Any) -> None:
    """Cached and not, several draws of noise and drops."""
    plain, cached = collate(samples, size=(64, 64)), cached_batch(method, samples, **settings)
    for seed in range(3):
        expected, found = losses(method, plain, seed), losses(method, cached, seed)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_stage_1_has_the_same_losses(folders: TinyBackbones, dtype: torch.dtype | None) -> None:
    assert_same_losses(settled_stage(folders, Stage1), world_samples(), dtype=dtype)


def test_stage_1_in_bfloat16_has_the_same_losses(folders: TinyBackbones) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_losses(settled_stage(folders, Stage1, dtype="bfloat16"), world_samples())


@pytest.mark.parametrize("kind", [Stage2, Stage3])
def test_other_stages_have_the_same_losses(folders: TinyBackbones, kind: type) -> None:
    assert_same_losses(settled_stage(folders, kind, objective=ObjectiveConfig(condition_drop=0.2)), world_samples())


@pytest.mark.parametrize(
    "settings",
    [
        {"drop": 0.2},
        {"drop": 0.0, "target_latents": "mode", "text": "response"},
        {"drop": 0.1, "text": {"instruction": 1, "response": 1, "target_caption": 1}, "generation": 0.5},
    ],
)
def test_instruct_pix2pix_has_the_same_losses(folders: TinyBackbones, settings: dict[str, Any]) -> None:
    assert_same_losses(editor(folders, **settings), world_samples())


@pytest.mark.parametrize("side", ["source", "target", "both"])
def test_text_to_image_has_the_same_losses(folders: TinyBackbones, side: Any) -> None:
    root = str(folders.stable_diffusion)
    method = TextToImageModule(OptimizerConfig(), {"sdm": 1.0}, root, root, caption_drop=0.3, side=side)
    assert_same_losses(method, world_samples())


def test_missing_fields_have_the_same_losses(folders: TinyBackbones) -> None:
    samples = world_samples(3)
    bare: list[Any] = [
        {name: value for name, value in samples[0].items() if name in ("key", "instruction", "response")},
        {name: value for name, value in samples[1].items() if name in ("key", "target", "target_caption")},
    ]
    for method in (settled_stage(folders, Stage1), editor(folders, drop=0.2)):
        assert_same_losses(method, [*bare, samples[2]])
        assert_same_losses(method, bare[1:])


def test_responses_longer_than_the_text_encoder_have_the_same_losses(folders: TinyBackbones) -> None:
    samples = world_samples()
    samples[1]["response"] *= 12
    objective = ObjectiveConfig(condition_drop=0.2, max_text_chunks=3)
    method = settled_stage(folders, Stage1, objective=objective)
    assert_same_losses(method, samples)
    shapes = {tuple(row.shape) for row in cached_batch(method, samples)["features.text.response"]}
    assert shapes == {(3 * 77, 32)}


def test_an_unreadable_sample_in_a_cached_batch_counts_nothing(folders: TinyBackbones) -> None:
    for method in (settled_stage(folders, Stage1), editor(folders)):
        found = losses(method, collate([{"key": ""}, *cached_samples(method, world_samples(2))], size=(64, 64)))
        assert [values[0] for values in found.values()] == [0] * len(found)


def test_frozen_parts_do_not_run_for_cached_samples(folders: TinyBackbones) -> None:
    stage, samples = settled_stage(folders, Stage1), world_samples()
    batch = cached_batch(stage, samples)
    assert "source" not in batch and "target" not in batch
    with counted(stage.mmig) as counts:
        losses(stage, batch)
    ran = {name.split(".")[0] for name in counts if name}
    assert ran == {"unet", "mmsm"}


def test_the_empty_text_is_encoded_once(folders: TinyBackbones) -> None:
    method = editor(folders, drop=0.3)
    batch = cached_batch(method, world_samples(8))
    with counted(method) as counts:
        for seed in range(3):
            losses(method, batch, seed)
    assert (counts["unet"], counts["text_encoder"], counts["vae.encoder"]) == (3, 1, 0)


def test_only_what_is_frozen_is_cached(folders: TinyBackbones) -> None:
    latents = {"latents.source", "latents.target", "text.response"}
    assert settled_stage(folders, Stage1).features.names == latents | {"llm.states"}
    second = settled_stage(folders, Stage2)
    assert (second.features.names, second.images_with_features) == (latents, {"target"})
    assert settled_stage(folders, Stage3).features.names == latents | {"llm.states"}
    blind = settled_stage(folders, Stage3, objective=ObjectiveConfig(text_only=0.5))
    assert blind.features.names == latents | {"llm.visual_tokens"}


def test_visual_tokens_stand_in_where_some_samples_hide_their_image(folders: TinyBackbones) -> None:
    stage = settled_stage(folders, Stage3, objective=ObjectiveConfig(text_only=0.5))
    assert_same_losses(stage, world_samples(6))
    with counted(stage.mmig.mllm) as counts:
        losses(stage, cached_batch(stage, world_samples()))
    assert counts["vision"] == 1  # while the cache is written
    assert counts["llm.model"] == 1


def test_features_of_another_backbone_are_refused_with_both_fingerprints(
    folders: TinyBackbones, tmp_path: Path
) -> None:
    stage = build_stage(folders, Stage1)
    own = stage.describe_backbones()["vae"]["fingerprint"]
    build_vae(tmp_path / "vae", seed=9)
    other = fingerprint(tmp_path / "vae")
    batch = cached_batch(stage, world_samples(1), facts={"vae": other})
    with pytest.raises(StaleFeaturesError, match=f"computed with vae {other[:12]}, this run has {own[:12]}; write"):
        losses(stage, batch)


@pytest.mark.parametrize(
    ("fact", "value", "found"),
    [
        ("prompt_template", "Q: {instruction}", "'Q: {instruction}', this run has 'Image: N/A"),
        ("adapters", "a" * 64, "aaaaaaaaaaaa, this run has 'fresh'"),
        ("max_text_chunks", "2", "'2', this run has '1'"),
        ("dtype", "torch.bfloat16", "'torch.bfloat16', this run has 'torch.float32'"),
        ("clip_vision", "b" * 64, "bbbbbbbbbbbb, this run has none"),
    ],
)
def test_features_made_otherwise_are_refused(folders: TinyBackbones, fact: str, value: str, found: str) -> None:
    stage = build_stage(folders, Stage1)
    batch = cached_batch(stage, world_samples(1), facts={fact: value})
    with pytest.raises(StaleFeaturesError) as error:
        losses(stage, batch)
    assert f"with {fact} {found}" in str(error.value)
    assert "\n" not in str(error.value)


def test_facts_of_what_is_not_read_do_not_count(folders: TinyBackbones) -> None:
    method = editor(folders)
    assert losses(method, cached_batch(method, world_samples(2), facts={"llm": "c" * 64, "adapters": "fresh"}))


def test_fresh_adapters_are_one_fact_and_trained_ones_another(folders: TinyBackbones) -> None:
    torch.manual_seed(1)
    first, second = build_stage(folders, Stage1), build_stage(folders, Stage1)
    with torch.no_grad():
        second.mmig.mllm.adapters["llm"][0].down.weight.add_(1)
    assert first.feature_facts() == second.feature_facts()
    assert first.feature_facts()["adapters"] == "fresh"
    assert settled_stage(folders, Stage1).feature_facts()["adapters"] != "fresh"


def test_cached_features_that_are_lacking_are_named_once(
    folders: TinyBackbones, caplog: pytest.LogCaptureFixture
) -> None:
    method = editor(folders)
    batch: Any = {name: value for name, value in cached_batch(method, world_samples(2)).items() if "text." not in name}
    for _ in range(2):
        losses(method, batch)
    assert [record.getMessage() for record in caplog.records if "lack" in record.getMessage()] == [
        "the cached features lack text.instruction, which is computed anew in every step"
    ]
