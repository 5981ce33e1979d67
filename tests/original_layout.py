"""A whole checkpoint of the original code (CompVis' latent diffusion), made of a folder in diffusers' layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmig.backbones.original_names import average_name, original_text_encoder, original_unet, original_vae


def average_names(unet: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names under which the original code keeps the averages of weights; beside them two counters."""
    named = {average_name(name): value for name, value in unet.items()}
    return named | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(22000)}


def original_state(folder: Path, unet: Path | None = None) -> dict[str, Tensor]:
    """All weights of a folder in diffusers' layout, with the schedule that the original code stores beside them.

    Args:
        folder: of a pipeline.
        unet: folder of another UNet.
    """

    def part(place: Path, file: str = "diffusion_pytorch_model") -> tuple[dict[str, Tensor], dict[str, Any]]:
        return load_file(place / f"{file}.safetensors"), json.loads((place / "config.json").read_text())

    text, _ = part(folder / "text_encoder", "model")
    return {
        "betas": torch.linspace(0.00085, 0.012, 1000),
        **original_unet(*part(unet or folder / "unet")),
        **original_vae(*part(folder / "vae")),
        **original_text_encoder(text),
    }
