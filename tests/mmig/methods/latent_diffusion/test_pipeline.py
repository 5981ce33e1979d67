"""Drawing and editing: diffusers' pipeline on the same weights, the limits of img2img, inversion there and back."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import edit
from datamodules.tinyworld.sample import draw_sample
from mmig.backbones.diffusion import load_vae
from mmig.checkpoints.folders import write_editor
from mmig.diffusion.fresh import UNetSize
from mmig.diffusion.latents import decode, encode
from mmig.editor import read_fields, with_settings
from mmig.methods.latent_diffusion import reconstruction
from mmig.methods.latent_diffusion.pipeline import DrawSampling, TextToImagePipeline, open_editor
from mmig.methods.latent_diffusion.text_to_image import OPENED_BY, TextToImageModule
from mmig.training.optim import OptimizerConfig
from tests.mmig.methods.latent_diffusion.support import captioned
from tests.tiny_fixtures import build_stable_diffusion

SIZE = UNetSize(block_out_channels=[16, 32], layers_per_block=1, attention_heads=2, norm_num_groups=8, sample_size=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_stable_diffusion(tmp_path / "stable-diffusion")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test writes into."""
    return build_stable_diffusion(tmp_path_factory.mktemp("kept") / "stable-diffusion")


def text_to_image(folder: Path) -> TextToImageModule:
    torch.manual_seed(0)
    return TextToImageModule(OptimizerConfig(), {"sdm": 1.0}, str(folder), SIZE)


def editor(folder: Path, **settings: Any) -> TextToImagePipeline:
    return open_editor(str(folder), DrawSampling(**{"num_steps": 5, **settings}))


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def test_the_exported_folder_opens_as_stable_diffusion_and_draws_the_same(folder: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    module = text_to_image(folder)
    module.unet.half().float()
    module.scheduler = DDIMScheduler.from_config(
        module.scheduler.config, clip_sample=False, timestep_spacing="trailing"
    )
    module.export(folder, {})
    published = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    published.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    theirs = published(
        "a circle", latents=noise, num_inference_steps=4, guidance_scale=3.0, height=64, width=64, output_type="pt"
    ).images
    ours = with_settings(module.make_pipeline(), {"num_steps": 4, "guidance_scale": 3.0})
    images = ours.draw(["a circle"], (64, 64), [torch.Generator().manual_seed(7)])
    torch.testing.assert_close(images / 2 + 0.5, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_pipeline_draws_images_that_do_not_depend_on_the_batch(folder: Path, strength: float) -> None:
    module, batch = text_to_image(folder), captioned(2)
    pipeline = with_settings(module.make_pipeline(), {"num_steps": 4, "strength": strength})
    both = pipeline(batch, [torch.Generator().manual_seed(seed) for seed in (1, 2)]).images
    second = {name: value[1:] if isinstance(value, torch.Tensor | list) else value for name, value in batch.items()}
    alone = pipeline(second, [torch.Generator().manual_seed(2)]).images
    assert both.shape == (2, 3, 64, 64)
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)
    assert pipeline.required_fields == (("target_caption",) if strength == 1.0 else ("source", "target_caption"))


@torch.no_grad()
@pytest.mark.parametrize("inversion", [False, True])
def test_at_strength_0_an_edit_is_the_source_through_the_autoencoder(kept: Path, inversion: bool) -> None:
    batch, pipeline = captioned(2), editor(kept, strength=0.0, inversion=inversion)
    expected = decode(pipeline.vae, encode(pipeline.vae, batch["source"])).clamp(-1, 1)
    torch.testing.assert_close(pipeline(batch, seeds(1, 2)).images, expected)


def test_at_strength_1_the_source_does_not_matter(kept: Path) -> None:
    batch, other = captioned(2), captioned(2, seed=5)
    pipeline = editor(kept, strength=1.0)
    assert torch.equal(pipeline(batch, seeds(1, 2)).images, pipeline(other, seeds(1, 2)).images)


def test_the_stronger_the_farther_from_the_source(kept: Path) -> None:
    batch = captioned(2)
    through = editor(kept, strength=0.0)(batch, seeds(1, 2)).images
    images = [editor(kept, strength=strength)(batch, seeds(1, 2)).images for strength in (0.2, 0.6, 1.0)]
    distances = [float((image - through).square().mean()) for image in images]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_inversion_draws_nothing_at_random_and_takes_the_source_at_any_strength(kept: Path) -> None:
    batch, pipeline = captioned(2), editor(kept, inversion=True)
    first, second = (pipeline(batch, seeds(*numbers)).images for numbers in ((1, 2), (3, 4)))
    assert torch.equal(first, second)
    assert not torch.equal(first, pipeline(captioned(2, seed=5), seeds(1, 2)).images)


@pytest.mark.slow
def test_inverted_and_drawn_under_its_own_caption_a_source_comes_back() -> None:
    """Of a trained UNet, without guidance, and the closer the more steps there are."""
    drawn = draw_sample(0, "val", 0, level="plain")
    source = torch.from_numpy(drawn["source"]).permute(2, 0, 1)[None].float() / 127.5 - 1
    captions = {f"{side}_caption": [drawn["source_caption"]] for side in ("source", "target")}
    batch: Any = {"source": source, "target": source, **captions}
    tiny = Path("assets/tiny/stable-diffusion")
    through = editor(tiny, strength=0.0)(batch, 0).images
    settings = {"guidance_scale": 1.0, "inversion": True}
    errors = [
        float((editor(tiny, num_steps=count, **settings)(batch, 0).images - through).abs().mean()) for count in (5, 25)
    ]
    assert errors[1] < 0.02 < 0.1 * errors[0]  # of values in [-1,1]


def test_inversion_is_diffusers_inverse_scheduler(kept: Path) -> None:
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    from mmig.diffusion.inversion import invert, make_ladder, without_guidance
    from mmig.diffusion.process import NoiseProcess

    pipeline, batch = editor(kept, num_steps=10), captioned(1)
    condition = pipeline._branches(batch["source_caption"])["full"]
    with torch.no_grad():
        clean = encode(pipeline.vae, batch["source"])
    config = dict(pipeline.scheduler.config) | {"clip_sample": False}
    inverse = DDIMInverseScheduler.from_config(config)
    inverse.set_timesteps(10)
    expected = clean
    for timestep in inverse.timesteps:
        with torch.no_grad():
            noise = pipeline.unet(expected, timestep, condition.tokens).sample
        expected = inverse.step(noise, timestep, expected).prev_sample
    scheduler = DDIMScheduler.from_config(config, timestep_spacing=config.get("timestep_spacing", "leading"))
    process, ladder = NoiseProcess.from_scheduler(scheduler), make_ladder(scheduler, 10)
    found = invert(without_guidance(pipeline._predict, condition), process, clean, ladder)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_source_without_a_caption_is_inverted_under_no_text(kept: Path) -> None:
    batch, pipeline = captioned(1), editor(kept, inversion=True)
    assert read_fields(pipeline) == ("source", "target_caption", "source_caption")
    empty = pipeline({**batch, "source_caption": [""]}, 0).images
    del batch["source_caption"], batch["has_source_caption"]
    assert torch.equal(pipeline(batch, 0).images, empty)


@pytest.mark.parametrize("settings", [["strength=0.5"], ["inversion=true", "strength=0.5"]])
def test_edit_py_edits_a_picture_by_what_it_is_to_show(kept: Path, tmp_path: Path, settings: list[str]) -> None:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "picture.png")
    folder = Path(shutil.copytree(kept, tmp_path / "exported"))
    write_editor(folder, OPENED_BY)
    inputs = ["--image", str(tmp_path / "picture.png"), "--instruction", "make it red", "--response", "a red circle"]
    out = ["--out", str(tmp_path / "out.png"), "--sampling", "num_steps=4", *settings]
    edit.main(["--checkpoint", str(folder), *inputs, *out])
    assert Image.open(tmp_path / "out.png").size == (64, 64)


def test_an_autoencoder_opens_as_what_gives_the_source_back(kept: Path) -> None:
    batch, vae = captioned(2), load_vae(kept)
    with torch.no_grad():
        expected = vae.decode(vae.encode(batch["source"]).latent_dist.mode()).sample.clamp(-1, 1)
    assert torch.equal(reconstruction.open_editor(str(kept))(batch, torch.Generator()).images, expected)
