"""The pipeline: against diffusers', round trips, callbacks, attention, shared parts."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmig.diffusion.attention import capture_attention
from mmig.diffusion.concepts import locate_concepts
from mmig.diffusion.kinds import attention_size
from mmig.diffusion.latents import decode, encode
from mmig.diffusion.sampling import draw_noise, per_sample
from mmig.methods.mmig.attention_losses import concept_maps
from mmig.methods.mmig.pipeline import MMIGEditor, MMIGPipeline
from tests.mmig.batches import edit_batch
from tests.mmig.methods.mmig.pipeline_support import FAST, TEXT, build, picture, seeded, source
from tests.tiny_fixtures import TinyBackbones, build_all


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plain(folders: TinyBackbones) -> MMIGPipeline:
    """img2img with fresh MMSM, no vision tower, no captioner."""
    return build(folders, concat=False, whole=False, trained=False)


@pytest.fixture(scope="module")
def whole(folders: TinyBackbones) -> MMIGPipeline:
    """concat with every part; MMSM and adapters are not zero."""
    return build(folders, concat=True, whole=True, trained=True)


def published(pipeline: MMIGPipeline, name: str) -> Any:
    import diffusers

    parts = {part: getattr(pipeline, part) for part in ("unet", "vae", "text_encoder", "tokenizer")}
    theirs = getattr(diffusers, name)(
        **parts,
        scheduler=pipeline.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    theirs.set_progress_bar_config(disable=True)
    return theirs


def test_fresh_it_equals_img2img_of_diffusers(plain: MMIGPipeline) -> None:
    theirs = published(plain, "StableDiffusionImg2ImgPipeline")
    settings = {"num_inference_steps": 6, "strength": 0.7, "guidance_scale": 5.0, "output_type": "pt"}
    latents = encode(plain.vae, source())  # given as latents: diffusers would draw from the posterior
    expected = theirs(TEXT, image=latents, generator=[seeded()], **settings).images
    found = plain(source(), "make it so", TEXT, generator=[seeded()], **settings).images
    torch.testing.assert_close(found / 2 + 0.5, expected, atol=1e-5, rtol=0)


def test_without_mmsm_it_equals_instruct_pix2pix_of_diffusers(whole: MMIGPipeline) -> None:
    theirs = published(whole, "StableDiffusionInstructPix2PixPipeline")
    settings = {"num_inference_steps": 4, "guidance_scale": 5.0, "image_guidance_scale": 1.5, "output_type": "pt"}
    noise = torch.randn(1, 4, 16, 16, generator=seeded())
    expected = theirs(TEXT, image=source(), latents=noise, **settings).images
    found = whole(source(), "x", TEXT, generator=[seeded()], use_mmsm=False, **settings).images
    torch.testing.assert_close(found / 2 + 0.5, expected, atol=1e-5, rtol=0)
    with_mmsm = whole(source(), "x", TEXT, generator=[seeded()], **settings).images
    assert (with_mmsm - found).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["plain", "whole"])
def test_saved_and_loaded_it_gives_the_same_bits(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pipeline: MMIGPipeline = request.getfixturevalue(kind)
    pipeline.save_pretrained(tmp_path / "saved")
    loaded = MMIGPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.sampling == pipeline.config.sampling
    assert (loaded.vision is None, loaded.captioner is None) == (kind == "plain", kind == "plain")
    assert not any(p.requires_grad for part in (loaded.unet, loaded.llm, loaded.connectors) for p in part.parameters())
    first, second = (p(source(2), ["one", "two"], output_type="pt", generator=seeded()) for p in (pipeline, loaded))
    assert torch.equal(first.images, second.images)
    assert first.descriptions == second.descriptions and all(first.descriptions)
    if kind == "whole":
        losses = [p.model.captioner.loss(source(), p.model.captioner.encode([TEXT])).sums for p in (pipeline, loaded)]
        assert torch.equal(*losses) and first.captions == second.captions
    given = [p(source(), "x", TEXT, output_type="pt", generator=seeded()).images for p in (pipeline, loaded)]
    assert torch.equal(*given)


def test_a_folder_of_before_there_were_flux_and_connectors_edits_the_same(plain: MMIGPipeline, tmp_path: Path) -> None:
    plain.save_pretrained(tmp_path)
    later = {"transformer", "text_encoder_2", "tokenizer_2", "noise_levels", "denoiser_text", "embedded_guidance"}
    later |= {"measure_overlap", "sees", "connector_settings", "token_dim", "start"}
    for file in (tmp_path / "model_index.json", tmp_path / "connectors/config.json"):
        text = file.read_text()
        old = json.loads(text, object_hook=lambda found: {name: found[name] for name in found.keys() - later})
        assert len(json.dumps(old)) < len(text) - 20
        file.write_text(json.dumps(old))
    opened = MMIGPipeline.from_pretrained(tmp_path)
    found = [each.edit(source(), ["x"], [TEXT], FAST, seeded()).images for each in (plain, opened)]
    assert torch.equal(*found)


def test_it_runs_in_half_precision(whole: MMIGPipeline, tmp_path: Path) -> None:
    whole.save_pretrained(tmp_path / "saved")
    loaded = MMIGPipeline.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    loaded.set_progress_bar_config(disable=True)
    assert {part.dtype for part in (loaded.unet, loaded.vae, loaded.llm, loaded.connectors)} == {torch.bfloat16}
    settings = {"output_type": "pt", "return_attention": True, "attention_guidance": 1.0}
    half, full = (p(source(), "x", TEXT, generator=[seeded()], **settings) for p in (loaded, whole))
    assert (half.images - full.images).abs().mean() < 0.05 < (half.images - source()).abs().mean()


def test_evaluation_goes_through_the_same_code(whole: MMIGPipeline) -> None:
    batch, generators = edit_batch(2), [[seeded(1), seeded(2)] for _ in range(3)]
    editor = MMIGEditor(whole, FAST)
    edited = editor(batch, generators[0])
    called = whole(batch["source"], batch["instruction"], batch["response"], output_type="pt", generator=generators[1])
    assert torch.equal(edited.images, called.images)
    assert edited.texts == called.descriptions == batch["response"]
    assert edited.extras == {"cut": [[], []], "captions": whole.model.captioner.caption(edited.images)}
    assert called.captions == edited.extras["captions"]


def test_without_a_captioner_there_are_no_captions(plain: MMIGPipeline) -> None:
    output = plain(source(), "x", TEXT)
    assert output.captions is None and output.attention is None
    assert [type(part).__name__ for part in plain(source(), "x", TEXT, return_dict=False)] == [
        "list",
        "list",
        "NoneType",
    ]


def test_a_number_is_the_seed_of_a_generator(plain: MMIGPipeline) -> None:
    for number, generator in ((7, seeded(7)), ([7, 8], [seeded(7), seeded(8)])):
        by_number, by_generator = (
            plain(source(2), "x", TEXT, num_images_per_prompt=2, generator=seed, output_type="pt").images
            for seed in (number, generator)
        )
        assert torch.equal(by_number, by_generator)


def test_each_generator_seeds_the_images_of_its_sample(plain: MMIGPipeline) -> None:
    many = plain(source(2), "x", TEXT, num_images_per_prompt=2, generator=[seeded(1), seeded(2)], output_type="pt")
    own = [*per_sample(seeded(1), 2), *per_sample(seeded(2), 2)]
    one_by_one = plain(source(2).repeat_interleave(2, dim=0), "x", TEXT, generator=own, output_type="pt")
    torch.testing.assert_close(many.images, one_by_one.images, atol=1e-5, rtol=0)
    assert len(many.descriptions) == 4 and not torch.equal(many.images[0], many.images[1])


def test_one_image_serves_several_instructions(plain: MMIGPipeline) -> None:
    both = plain(picture(40, 20), ["one", "two"], [TEXT, "red"], generator=[seeded(1), seeded(1)])
    assert [image.size for image in both.images] == [(40, 20)] * 2
    assert both.images[0].tobytes() != both.images[1].tobytes()


def test_callbacks_see_each_step_and_may_replace_the_latents(plain: MMIGPipeline) -> None:
    seen: list[tuple[int, int]] = []

    def callback(pipeline: Any, index: int, timestep: torch.Tensor, values: dict[str, Any]) -> dict[str, Any]:
        assert pipeline is plain and values["latents"].shape == (1, 4, 16, 16)
        seen.append((index, int(timestep)))
        return {"latents": torch.full_like(values["latents"], 0.5)}

    settings = {"num_inference_steps": 4, "strength": 0.5, "output_type": "pt"}
    edited = plain(source(), "x", TEXT, callback_on_step_end=callback, **settings).images
    assert seen == [(0, 251), (1, 1)]
    with torch.no_grad():
        expected = decode(plain.vae, torch.full((1, 4, 16, 16), 0.5)).clamp(-1, 1)
    torch.testing.assert_close(edited, expected)


def test_the_next_step_starts_from_what_a_callback_put_in_place(plain: MMIGPipeline) -> None:
    def noise_again(_pipeline: Any, index: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any] | None:
        return {"latents": values["latents"] + 1} if index == 0 else None

    settings = {"num_inference_steps": 4, "strength": 0.5, "output_type": "pt"}
    changed = plain(source(), "x", TEXT, callback_on_step_end=noise_again, **settings).images
    assert not torch.allclose(changed, plain(source(), "x", TEXT, **settings).images, atol=1e-2)


def test_a_progress_bar_counts_the_steps(plain: MMIGPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    plain.set_progress_bar_config(disable=False)
    plain(source(), "x", TEXT, num_inference_steps=4, strength=0.5)
    plain.set_progress_bar_config(disable=True)
    assert "2/2" in capsys.readouterr().err
    plain.edit(source(), ["x"], [TEXT], FAST)
    assert capsys.readouterr().err == ""


def test_maps_are_those_of_the_branch_with_text(whole: MMIGPipeline) -> None:
    """One step: the attention that one forward on the initial noise has, computed by hand."""
    settings = {"num_inference_steps": 1, "generator": [seeded()], "output_type": "pt"}
    output = whole(source(), "x", TEXT, concepts=["circle", "red square", "dog"], return_attention=True, **settings)
    model, words = whole.model, [["circle", "red square", "dog"]]
    scheduler = type(whole.scheduler).from_config(whole.scheduler.config)
    scheduler.set_timesteps(1)
    with torch.no_grad(), capture_attention(whole.unet, (16, 16)) as capture:
        states = model.answer(edit_batch(1) | {"instruction": ["x"], "response": [TEXT], "source": source()}).states
        condition = model.condition([TEXT], source(), torch.ones(1))
        noise = draw_noise((4, 16, 16), [seeded()]) * scheduler.init_noise_sigma
        model.denoise(noise, scheduler.timesteps[:1], condition, states)
        expected = concept_maps(capture.average(), locate_concepts(whole.tokenizer, [TEXT], words)).maps
    torch.testing.assert_close(output.attention.maps, expected, atol=1e-5, rtol=1e-4)
    assert output.attention.valid.tolist() == [[True, True, False]]
    assert output.attention.words == words
    plain_edit = whole(source(), "x", TEXT, **settings | {"generator": [seeded()]})
    assert torch.equal(output.images, plain_edit.images)  # looking changes nothing


def test_maps_of_nouns_follow_the_shape_of_the_image(plain: MMIGPipeline) -> None:
    output = plain(picture(100, 50), "x", [TEXT], return_attention=True, num_images_per_prompt=2)
    assert output.attention.words == [["circle", "square"]] * 2
    assert output.attention.maps.shape == (2, 2, 8, 16)
    nothing = plain(picture(), "x", "red", concepts=[], return_attention=True).attention
    assert nothing.maps.shape == (1, 0, 16, 16)


@pytest.mark.parametrize(
    ("latents", "usual", "expected"),
    [((64, 64), 64, (16, 16)), ((64, 96), 64, (16, 24)), ((42, 64), 64, (11, 16)), ((16, 8), 16, (16, 8))],
)
def test_attention_is_taken_at_the_same_level(latents: tuple[int, int], usual: int, expected: tuple[int, int]) -> None:
    assert attention_size(latents, usual, (16, 16)) == expected


def test_attention_guidance_moves_images_with_concepts_only(whole: MMIGPipeline) -> None:
    def edit(scale: float) -> torch.Tensor:
        settings = {"attention_guidance": scale, "output_type": "pt", "generator": [seeded(1), seeded(2)]}
        return whole(source(2), "x", [TEXT, "red"], concepts=[["circle", "square"], []], **settings).images

    without, guided = edit(0.0), edit(50.0)
    assert not torch.allclose(without[0], guided[0], atol=1e-3)
    torch.testing.assert_close(without[1], guided[1], atol=1e-5, rtol=0)


def test_pipelines_of_one_set_of_components_share_everything(whole: MMIGPipeline) -> None:
    again = MMIGPipeline(**whole.components, **whole.parameters)
    third = MMIGPipeline.from_model(whole.model)
    for pipeline in (again, third):
        assert pipeline.model.mllm is whole.model.mllm and pipeline.model.captioner is whole.model.captioner
        assert pipeline.unet is whole.unet


def test_a_pipeline_leaves_the_trained_parts_trainable(folders: TinyBackbones) -> None:
    model = build(folders, concat=True, whole=True, trained=False).model
    model.captioner.set_trainable()
    for part in (model.unet, model.mmsm, model.mllm.adapters):
        part.requires_grad_(True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    MMIGPipeline.from_model(model)
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_it_is_wired_once(plain: MMIGPipeline) -> None:
    pipeline = MMIGPipeline(**plain.components, **plain.parameters)
    pipeline.set_progress_bar_config(disable=True)
    model = pipeline.model
    for _ in range(2):
        pipeline(source(), "x", TEXT, output_type="pt")
        assert pipeline.model is model


def test_it_is_wired_again_where_a_part_or_a_setting_was_replaced(plain: MMIGPipeline) -> None:
    from diffusers import EulerDiscreteScheduler

    pipeline = MMIGPipeline(**plain.components, **plain.parameters)
    before = pipeline.model
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    with_scheduler = pipeline.model
    assert with_scheduler is not before and with_scheduler.scheduler is pipeline.scheduler
    pipeline.unet = copy.deepcopy(pipeline.unet)
    with_unet = pipeline.model
    assert with_unet is not with_scheduler and with_unet.unet is pipeline.unet and with_unet.mllm is before.mllm
    pipeline.register_to_config(max_text_chunks=2)
    assert pipeline.model is not with_unet and pipeline.model.objective.max_text_chunks == 2
    assert pipeline.model is pipeline.model


def test_replaced_components_are_used(folders: TinyBackbones, plain: MMIGPipeline) -> None:
    from diffusers import EulerDiscreteScheduler

    pipeline = MMIGPipeline(**plain.components, **plain.parameters)
    pipeline.set_progress_bar_config(disable=True)
    before = pipeline(source(), "x", TEXT, output_type="pt", num_inference_steps=4).images
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    assert not torch.equal(before, pipeline(source(), "x", TEXT, output_type="pt", num_inference_steps=4).images)
    pipeline.unet = build(folders, concat=True, whole=False, trained=False).unet
    with pytest.raises(ValueError, match="'img2img' needs a UNet with 4 input channels, found 8"):
        pipeline(source(), "x", TEXT)
