"""The tiny autoencoder and UNets in half precision, written part by part into folders that hold the other parts.

A whole folder of one run's weights, with a card, is what `mmig.run.export` writes; here several runs share one.
"""

import copy
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from datamodules.schema import Batch
from mmig.diffusion.saving import WEIGHTS, forget_origins, save_pipeline_index
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.latent_diffusion.scale import measure_scale

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from mmig.methods.latent_diffusion.autoencoder import AutoencoderModule
    from mmig.methods.latent_diffusion.text_to_image import TextToImageModule
    from mmig.training.latent_module import LatentModule


def export_autoencoder(module: "AutoencoderModule", batches: Iterable[Batch], out: Path) -> float:
    """Write vae/ below `out`; returns its scaling_factor, measured on the images of `batches`.

    Raises:
        ValueError: too few images.
    """
    scale, _ = measure_scale(module.vae, batches)
    module.vae.register_to_config(scaling_factor=round(scale, 5))
    save_half(module.vae, out / "vae")
    return module.vae.config.scaling_factor


def export_unets(module: "InstructPix2PixModule | TextToImageModule", out: Path) -> list[Path]:
    """Write the UNet with its scheduler below `out`: stable-diffusion/, and of an editing one instruct-pix2pix/ too.

    The first input channels of an editing UNet are one that draws from text (trained by `generation` > 0). The other
    parts of stable-diffusion/ are there already.

    Returns:
        The folders.
    """
    drawing, unet = out / "stable-diffusion", module.unet
    written = [drawing]
    if isinstance(module, InstructPix2PixModule):
        written.append(out / "instruct-pix2pix")
        _write_unet(module, unet, written[-1])
        unet = narrowed(unet, module.vae.config.latent_channels)
    _write_unet(module, unet, drawing)
    save_pipeline_index(drawing, "StableDiffusionPipeline", module.pipeline_parts)
    return written


def narrowed(unet: "UNet2DConditionModel", in_channels: int) -> "UNet2DConditionModel":
    """A copy with the first `in_channels` input channels: equal to `unet` where the others are zero."""
    narrow = type(unet).from_config({**unet.config, "in_channels": in_channels})
    weights = dict(unet.state_dict())
    weights["conv_in.weight"] = weights["conv_in.weight"][:, :in_channels]
    narrow.load_state_dict(weights)
    return narrow


def save_half(model: nn.Module, folder: Path) -> None:
    """Write a diffusers model in float16, which itself stays as it is; paths of this machine are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        partial = Path(name)
        copy.deepcopy(model).half().save_pretrained(partial)
        (partial / WEIGHTS).chmod(0o644)  # safetensors would hide it from others
        forget_origins(partial)
        for file in (WEIGHTS, "config.json"):  # the config last: without it the folder is no model
            os.replace(partial / file, folder / file)


def _write_unet(module: "LatentModule", unet: Any, folder: Path) -> None:
    save_half(unet, folder / "unet")
    module.scheduler.save_pretrained(folder / "scheduler")
    forget_origins(folder / "scheduler")
