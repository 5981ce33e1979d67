"""The tiny autoencoder and UNets in half precision, written part by part into folders that hold the other parts.

A whole folder of one run's weights, with a card, is what `mmig.run.export` writes; here several runs share one.
"""

import copy
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from datamodules.schema import Batch
from mmig.diffusion.saving import WEIGHTS, forget_origins, save_pipeline_index
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.latent_diffusion.scale import measure_scale

if TYPE_CHECKING:
    from mmig.methods.latent_diffusion.autoencoder import AutoencoderModule
    from mmig.methods.latent_diffusion.text_to_image import TextToImageModule


def export_autoencoder(module: "AutoencoderModule", batches: Iterable[Batch], out: Path) -> float:
    """Write stable-diffusion/vae/ below `out`; returns its scaling_factor, measured on the images of `batches`.

    Raises:
        ValueError: too few images.
    """
    scale, _ = measure_scale(module.vae, batches)
    module.vae.register_to_config(scaling_factor=round(scale, 5))
    save_half(module.vae, out / "stable-diffusion" / "vae")
    return module.vae.config.scaling_factor


def export_unet(module: "InstructPix2PixModule | TextToImageModule", out: Path) -> Path:
    """Write the UNet with its scheduler below `out`: in instruct-pix2pix/ one that edits, in stable-diffusion/ one
    that draws, beside the other parts that are there already. Returns the folder.
    """
    edits = isinstance(module, InstructPix2PixModule)
    folder = out / ("instruct-pix2pix" if edits else "stable-diffusion")
    save_half(module.unet, folder / "unet")
    module.scheduler.save_pretrained(folder / "scheduler")
    forget_origins(folder / "scheduler")
    if not edits:
        save_pipeline_index(folder, "StableDiffusionPipeline", module.pipeline_parts)
    return folder


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
