"""MMIG around a tiny random FLUX.1 Kontext in the published layout: against diffusers, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxKontextPipeline
from torch import nn

from mmig.backbones.named import origins
from mmig.backbones.parts import BackboneError
from mmig.diffusion.attention import capture_attention
from mmig.diffusion.flux import pack
from mmig.diffusion.fresh import FluxSize
from mmig.methods.mmig.attention_losses import concept_maps
from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.objective import ObjectiveConfig
from mmig.methods.mmig.parts import BACKBONES, BackboneConfig, MMSMConfig, load_parts
from mmig.methods.mmig.pipeline import MMIGPipeline, SamplingConfig
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage1, Stage3
from mmig.methods.mmig.token_connectors.mlp import MLP
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.batches import edit_batch
from tests.mmig.methods.mmig.pipeline_support import TEXT, seeded, source
from tests.mmig.methods.mmig.stages.support import recorded
from tests.tiny_fixtures import build_llama, build_stable_diffusion
from tests.tiny_flux import T5_LENGTH, build_flux_kontext

LOCATIONS = ["transformer_blocks.1", "single_transformer_blocks.0"]
GUIDANCE = 3.5
ONE_BRANCH = {"guidance_scale": 1.0, "image_guidance_scale": 1.0}
"""How a transformer that was distilled with guidance is sampled."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux")
    build_flux_kontext(folder / "kontext")
    build_llama(folder / "llama")
    return folder


def build(root: Path, conditioning: str = "sequence", **settings: Any) -> MMIG:
    torch.manual_seed(0)
    backbones = BackboneConfig(str(root / "kontext"), str(root / "llama"), **settings)
    parts = load_parts(backbones, MMSMConfig(16, 2, LOCATIONS))
    model = MMIG(parts, conditioning, MultimodalConfig(max_response_tokens=8))  # type: ignore[arg-type]
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pipeline(root: Path) -> MMIGPipeline:
    made = MMIGPipeline.from_model(build(root), SamplingConfig(num_steps=3, embedded_guidance=GUIDANCE), 64)
    for parameter in made.connectors.mmsm.parameters():
        nn.init.normal_(parameter, std=0.1)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def theirs(pipeline: MMIGPipeline) -> FluxKontextPipeline:
    names = ("transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    made = FluxKontextPipeline(**{name: getattr(pipeline, name) for name in names})
    made.set_progress_bar_config(disable=True)
    return made


def edited_by(theirs: FluxKontextPipeline, **settings: Any) -> torch.Tensor:
    """What diffusers makes of the tests' source and text, in [-1,1]."""
    noise = pack(torch.randn(1, 4, 16, 16, generator=seeded()))
    size = {"height": 64, "width": 64, "max_area": 64 * 64, "_auto_resize": False}
    picture = source() / 2 + 0.5
    named = {
        "num_inference_steps": 4,
        "guidance_scale": GUIDANCE,
        "max_sequence_length": T5_LENGTH,
        "output_type": "pt",
    }
    return theirs(picture, TEXT, latents=noise, **named, **size, **settings).images * 2 - 1


def edit(pipeline: MMIGPipeline, **settings: Any) -> Any:
    named = {"num_inference_steps": 4, "output_type": "pt", "generator": [seeded()]}
    return pipeline(source(), "x", TEXT, **named, **settings)


# Against diffusers --------------------------------------------------------------------------------------------------


def test_without_mmsm_it_equals_flux_kontext_of_diffusers(pipeline: MMIGPipeline, theirs: FluxKontextPipeline) -> None:
    found = edit(pipeline, use_mmsm=False, **ONE_BRANCH).images
    torch.testing.assert_close(found, edited_by(theirs), atol=1e-5, rtol=0)
    assert (edit(pipeline, **ONE_BRANCH).images - found).abs().max() > 1e-3


def test_its_text_scale_is_their_true_guidance(pipeline: MMIGPipeline, theirs: FluxKontextPipeline) -> None:
    found = edit(pipeline, use_mmsm=False, guidance_scale=3.0, image_guidance_scale=1.0).images
    expected = edited_by(theirs, negative_prompt="", true_cfg_scale=3.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_every_scale_moves_the_picture(pipeline: MMIGPipeline) -> None:
    plain = edit(pipeline, guidance_scale=2.0, image_guidance_scale=1.0).images
    assert (edit(pipeline, guidance_scale=2.0, image_guidance_scale=2.0).images - plain).abs().max() > 1e-3
    told = MMIGPipeline.from_model(pipeline.model, SamplingConfig(num_steps=3, embedded_guidance=9.0), 64)
    assert (edit(told, guidance_scale=2.0, image_guidance_scale=1.0).images - plain).abs().max() > 1e-4


def test_texts_are_read_as_diffusers_reads_them(pipeline: MMIGPipeline, theirs: FluxKontextPipeline) -> None:
    texts = [TEXT, "", " ".join(["a red circle"] * 20)]
    states, pooled, _ = theirs.encode_prompt(texts, max_sequence_length=T5_LENGTH)
    found = pipeline.model.reader.read(texts)
    assert found.mask is None
    torch.testing.assert_close(found.tokens, states)
    torch.testing.assert_close(found.pooled, pooled)


def test_training_is_conditioned_as_sampling_is(pipeline: MMIGPipeline) -> None:
    """Samples that lose their text read the empty one, those that lose their source see zeros."""
    model, batch = pipeline.model, edit_batch(2)
    first, second = torch.tensor([True, False]), torch.tensor([False, True])
    clean, found = model.conditioned_latents(batch, Draws(0, batch["position"]), first, second)
    expected = model.condition(["", batch["response"][1]], batch["source"], ~second)
    for name in ("tokens", "pooled", "image_latents"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-4)
    raw = model.vae.encode(batch["source"]).latent_dist.mode()[0]
    torch.testing.assert_close(found.image_latents[0], (raw - 0.2) * 0.5)  # the tiny autoencoder's shift and scale
    assert not found.image_latents[1].any() and clean.shape == (2, 4, 16, 16)


def test_in_training_each_text_encoder_reads_once_what_only_it_gives(pipeline: MMIGPipeline) -> None:
    model, batch = pipeline.model, edit_batch(2)
    none = torch.zeros(2, dtype=torch.bool)
    with recorded(model.text_encoder_2) as calls:
        model.conditioned_latents(batch, Draws(0, batch["position"]), none, none)
    assert len(calls) == 1


# Concepts -----------------------------------------------------------------------------------------------------------


def test_concepts_are_found_among_the_tokens_of_t5(pipeline: MMIGPipeline) -> None:
    reader, tokenizer = pipeline.model.reader, pipeline.tokenizer_2
    texts, phrases = [TEXT, "a circlet and a circle"], [["circle", "red square", "dog"], ["circle"]]
    found = reader.locate(texts, phrases)
    for row, column, word in ((0, 0, "circle"), (0, 1, "red square"), (1, 0, "circle")):
        places = [place for place in found.positions[row, column].tolist() if place >= 0]
        ids = torch.tensor(tokenizer(texts[row])["input_ids"])
        assert tokenizer.decode(ids[places]).strip() == word
    assert found.valid.tolist() == [[True, True, False], [True, False, False]]
    assert found.positions[1, 0, 0] > 3  # not the beginning of the longer word
    lengths = [len(tokenizer(text)["input_ids"]) - 1 for text in texts]
    assert found.content.shape == (2, T5_LENGTH) and found.content.sum(dim=1).tolist() == lengths
    late = reader.locate(["a " * T5_LENGTH + "circle"], [["circle"]])
    assert late.truncated.tolist() == [1] and not late.valid.any()


def test_maps_are_those_of_the_noisy_tokens(pipeline: MMIGPipeline) -> None:
    """One step: the attention of one forward on the initial noise, computed by hand; 8x8 tokens of 16x16 latents."""
    words = ["circle", "red square", "dog"]
    named = {"num_inference_steps": 1, "generator": [seeded()], "output_type": "pt", "use_mmsm": False, **ONE_BRANCH}
    output = pipeline(source(), "x", TEXT, concepts=words, return_attention=True, **named)
    model = pipeline.model
    told = model.kind.guidance(model.unet, GUIDANCE, 1)
    condition = replace(model.condition([TEXT], source(), torch.ones(1)), extra=told)
    noise = torch.randn(1, 4, 16, 16, generator=seeded())
    with torch.no_grad(), capture_attention(model.unet, (8, 8)) as capture:
        model.kind.predict(model.unet, noise, torch.tensor([1000.0]), condition)
    expected = concept_maps(capture.average(), model.reader.locate([TEXT], [words])).maps
    assert output.attention.maps.shape == (1, 3, 8, 8) and output.attention.valid.tolist() == [[True, True, False]]
    torch.testing.assert_close(output.attention.maps, expected, atol=1e-5, rtol=1e-4)
    again = pipeline(source(), "x", TEXT, **named | {"generator": [seeded()]})
    assert torch.equal(output.images, again.images)  # looking changes nothing


def test_attention_guidance_moves_images_with_concepts_only(pipeline: MMIGPipeline) -> None:
    def run(scale: float) -> torch.Tensor:
        named = {"attention_guidance": scale, "output_type": "pt", "generator": [seeded(1), seeded(2)], **ONE_BRANCH}
        return pipeline(source(2), "x", [TEXT, "red"], concepts=[["circle", "square"], []], **named).images

    without, guided = run(0.0), run(50.0)
    assert not torch.allclose(without[0], guided[0], atol=1e-3)
    torch.testing.assert_close(without[1], guided[1], atol=1e-5, rtol=0)


# Folders ------------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_gives_the_same_bits(pipeline: MMIGPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    held = {path.name for path in tmp_path.iterdir()}
    assert {"transformer", "text_encoder_2", "tokenizer_2"} <= held and "unet" not in held
    loaded = MMIGPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(edit(pipeline).images, edit(loaded).images)
    assert loaded.editing_resolution == 64


def test_a_folder_is_loaded_by_what_it_holds(root: Path) -> None:
    found = origins(BACKBONES, {"backbones": BackboneConfig(str(root / "kontext"), str(root / "llama"))})
    assert {"unet", "text_encoder_2", "tokenizer_2"} <= found.keys()
    build_stable_diffusion(root / "sd")
    others = origins(BACKBONES, {"backbones": BackboneConfig(str(root / "sd"), str(root / "llama"))})
    assert "unet" in others and not {"text_encoder_2", "tokenizer_2"} & others.keys()


def test_a_fresh_transformer_reads_clip_alone(root: Path) -> None:
    """Of a Stable Diffusion's folder all but its UNet and its schedule."""
    build_stable_diffusion(root / "whole")
    size = FluxSize(1, 1, 2, 32, 0.5)
    backbones = BackboneConfig(str(root / "whole"), str(root / "llama"), unet=size)
    assert "unet" not in origins(BACKBONES, {"backbones": backbones})
    parts = load_parts(backbones, MMSMConfig(16, 2, ["transformer_blocks.0"]), ["unet"])
    objective = ObjectiveConfig(noise_levels="logit_normal")
    model = MMIG(parts, "sequence", MultimodalConfig(max_response_tokens=8), objective).eval()
    assert (model.process.prediction, model.process.shift, model.process.levels) == ("flow", 0.5, "logit_normal")
    found = model.reader.read([TEXT])
    output = model.text_encoder(model.tokenizer([TEXT], padding="max_length", return_tensors="pt").input_ids)
    torch.testing.assert_close(found.tokens, output.last_hidden_state)
    torch.testing.assert_close(found.pooled, output.pooler_output)
    assert MMIGPipeline.from_model(model.requires_grad_(False)).editing_resolution == 64


@pytest.mark.parametrize(("kind", "unlearnt"), [(Stage1, ("mmig.unet",)), (Stage3, ())])
def test_a_fresh_transformer_is_of_no_use_to_a_stage_that_freezes_it(
    root: Path, kind: type[MMIGStage], unlearnt: tuple[str, ...]
) -> None:
    build_stable_diffusion(root / "around")
    backbones = BackboneConfig(str(root / "around"), str(root / "llama"), unet=FluxSize(1, 1, 2, 32, 0.5))
    settings = {"source_conditioning": "sequence", "mmsm": MMSMConfig(16, 2, ["transformer_blocks.0"])}
    if kind is Stage3:
        settings["loss_weights"] = {"sdm": 1.0}
    assert kind(backbones, OptimizerConfig(), **settings).unlearnt_parts == unlearnt


# What is refused ----------------------------------------------------------------------------------------------------


def said(error: pytest.ExceptionInfo[Exception]) -> str:
    """What an error says, which is one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_t5_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "kontext", tmp_path / "kontext")
    shutil.rmtree(tmp_path / "kontext/text_encoder_2")
    (tmp_path / "llama").symlink_to(root / "llama")
    with pytest.raises(BackboneError) as error:
        build(tmp_path)
    assert "joint_attention_dim: expected a text_encoder_2 (T5) of width 16 with tokenizer_2 beside it" in said(error)


def test_parts_of_several_models_are_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "kontext", tmp_path / "kontext")
    (tmp_path / "llama").symlink_to(root / "llama")
    file = tmp_path / "kontext/transformer/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"_class_name": "QwenImageTransformer2DModel"}))
    with pytest.raises(BackboneError, match="_class_name UNet2DConditionModel or FluxTransformer2DModel, found 'Qwen"):
        build(tmp_path)


@pytest.mark.parametrize("place", ["mid_block", "transformer_blocks.2", "single_transformer_blocks.0.attn"])
def test_a_place_that_is_no_block_is_refused(root: Path, place: str) -> None:
    with pytest.raises(ValueError, match="mmsm") as error:
        load_parts(BackboneConfig(str(root / "kontext"), str(root / "llama")), MMSMConfig(16, 2, [place]))
    known = "transformer_blocks.0, transformer_blocks.1, single_transformer_blocks.0, single_transformer_blocks.1"
    assert said(error) == f"mmsm.locations: no block {place!r} in the FluxTransformer; it has {known}"


def test_a_connector_of_tokens_is_refused_before_anything_runs(root: Path) -> None:
    backbones = BackboneConfig(str(root / "kontext"), str(root / "llama"))
    for place in ("replace", "append"):
        parts = load_parts(backbones, MMSMConfig(locations=[]), connector=MLP(place=place))
        with pytest.raises(ValueError, match="connector: MLP hides tokens that do not count, and a Flux") as error:
            MMIG(parts, "sequence")
        assert said(error).endswith("takes no mask of its tokens; expected none: give mmsm.locations instead")


def test_settings_of_other_denoisers_are_refused(root: Path, pipeline: MMIGPipeline) -> None:
    with pytest.raises(ValueError, match="'concat' appends channels, and a FluxTransformer2DModel takes"):
        build(root, "concat")
    with pytest.raises(ValueError, match=r"objective\.max_text_chunks: a FLUX transformer reads one chunk"):
        MMIGPipeline(**pipeline.components, **pipeline.parameters | {"max_text_chunks": 2})
    with pytest.raises(ValueError, match="expected one denoiser, unet or transformer, found none"):
        MMIGPipeline(**pipeline.components | {"transformer": None}, **pipeline.parameters)
