"""The latent scale of an autoencoder: one number that brings its latents to unit variance."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from datamodules.schema import Batch
from mmig.diffusion.latents import encode_unscaled
from mmig.evaluation.data import build_datamodule, prepare

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

MIN_IMAGES = 1000
"""A scale from fewer images is not stored: the first batch alone, as LDM took it, can be far off."""
MAX_IMAGES = 2000
"""More are not read."""


@torch.no_grad()
def measure_scale(vae: "AutoencoderKL", batches: Iterable[Batch]) -> tuple[float, int]:
    """1 / standard deviation of the latents (posterior modes, over all values), and the number of images measured.

    Args:
        vae: the autoencoder; its own scale is not applied.
        batches: source and target images are both taken.

    Raises:
        ValueError: fewer than `MIN_IMAGES` images.
    """
    count, total, squares, images = 0, 0.0, 0.0, 0
    for batch in batches:
        for name in ("source", "target"):
            chosen = batch[name][batch[f"has_{name}"]]  # type: ignore[literal-required]
            if len(chosen):
                latents = encode_unscaled(vae, chosen).double()
                count += latents.numel()
                total += latents.sum().item()
                squares += latents.square().sum().item()
                images += len(chosen)
        if images >= MAX_IMAGES:
            break
    if images < MIN_IMAGES:
        raise ValueError(
            f"the latent scale needs at least {MIN_IMAGES} images, the data gave {images}; name data with a larger "
            "validation split with --data FILE"
        )
    variance = squares / count - (total / count) ** 2
    return variance**-0.5, images


def validation_batches(config: Mapping[str, Any]) -> Iterable[Batch]:
    """Batches of the validation split of the data that a run's configuration names; what has to be written is written.

    Raises:
        ValueError: it names none, or they cannot be used.
    """
    section = config.get("data")
    if not section:
        raise ValueError("the run's configuration names no data to measure the latent scale on; give --data FILE")
    data = build_datamodule(section, Path("config.yaml"))
    prepare(data, "val")
    return data.val_dataloader()
