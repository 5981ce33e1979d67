"""The tiny autoencoder and UNets in assets/tiny's layout: half precision, the scale, where what goes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from experiments.tiny_backbones.diffusion_export import export_autoencoder, export_unet
from experiments.tiny_backbones.diffusion_export import save_half as save
from experiments.tiny_backbones.export import ExportError, export_run
from mmig.backbones.diffusion import load_scheduler, load_unet, load_vae
from mmig.diffusion.fresh import UNetSize
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.latent_diffusion.autoencoder import AutoencoderModule
from mmig.methods.latent_diffusion.text_to_image import TextToImageModule
from mmig.methods.styleclip.gan import StyleGANModule
from mmig.methods.styleclip.loading import load_generator
from mmig.training.optim import OptimizerConfig
from tests.mmig.batches import edit_batch
from tests.mmig.methods.styleclip.contract import SIZES
from tests.tiny_fixtures import build_stable_diffusion

SIZE = UNetSize(block_out_channels=[16, 32], layers_per_block=1, attention_heads=2, norm_num_groups=8, sample_size=16)


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """A root as assets/tiny is, with stable-diffusion/ in it."""
    build_stable_diffusion(tmp_path / "assets" / "stable-diffusion")
    return tmp_path / "assets"


def autoencoder() -> AutoencoderModule:
    torch.manual_seed(0)
    return AutoencoderModule(OptimizerConfig(), {"squared": 1.0}, (8, 16, 16), 1, norm_num_groups=8, sample_size=64)


def denoiser(kind: Any, assets: Path) -> Any:
    torch.manual_seed(0)
    return kind(OptimizerConfig(), {"sdm": 1.0}, str(assets / "stable-diffusion"), SIZE)


def test_an_exported_autoencoder_loads_with_its_scale(tmp_path: Path) -> None:
    module, image = autoencoder(), edit_batch(1)["source"]
    scale = export_autoencoder(module, [edit_batch(512, 16)], tmp_path)
    loaded = load_vae(tmp_path / "stable-diffusion")
    assert loaded.config.scaling_factor == scale
    latents = [vae.encode(image).latent_dist.mode() for vae in (loaded, module.vae)]
    torch.testing.assert_close(*latents, atol=2e-2, rtol=2e-2)


def test_an_exported_generator_draws_what_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = StyleGANModule(OptimizerConfig(betas=(0.0, 0.99)), **SIZES, margin=2)
    assert export_run("gan", module, tmp_path) == [tmp_path / "gan"]
    loaded, codes = load_generator(tmp_path / "gan"), module.generator.codes(torch.randn(2, SIZES["z_dim"]))
    torch.testing.assert_close(loaded(codes), module.generator(codes), atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(loaded.mapping.w_avg, module.generator.code_statistics()[0], atol=1e-3, rtol=1e-2)


def test_a_scale_from_nowhere_and_a_run_of_another_kind_are_refused(assets: Path) -> None:
    with pytest.raises(ExportError, match="--data: expected a configuration"):
        export_run("vae", autoencoder(), assets)
    with pytest.raises(ExportError, match="expected a run of InstructPix2PixModule or TextToImageModule, found Autoe"):
        export_run("unet", autoencoder(), assets)


def test_files_are_half_precision_and_name_no_path(assets: Path, tmp_path: Path) -> None:
    save(load_unet(assets / "stable-diffusion"), tmp_path / "unet")
    weights = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert "_name_or_path" not in (tmp_path / "unet" / "config.json").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["assets", "unet"]


def test_replacing_the_folders_unet_keeps_the_backbones_fingerprints(assets: Path) -> None:
    assert export_unet(denoiser(TextToImageModule, assets), assets) == assets / "stable-diffusion"
    module = denoiser(TextToImageModule, assets)
    before = module.describe_backbones()
    with torch.no_grad():
        module.unet.conv_out.bias.add_(1)
    export_unet(module, assets)
    assert denoiser(TextToImageModule, assets).describe_backbones() == before
    assert sorted(before) == ["scheduler", "text_encoder", "tokenizer", "vae"]


def test_an_editing_unet_has_a_folder_of_its_own(assets: Path) -> None:
    before = {path: path.read_bytes() for path in assets.rglob("*") if path.is_file()}
    editing = export_unet(denoiser(InstructPix2PixModule, assets), assets)
    assert editing == assets / "instruct-pix2pix" and load_unet(editing, in_channels=8).config.in_channels == 8
    assert type(load_scheduler(editing)) is type(load_scheduler(assets / "stable-diffusion"))
    assert all(path.read_bytes() == content for path, content in before.items())
