"""The latent scale of an autoencoder: one number that brings its latents to unit variance."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from datamodules.schema import Batch
from mmig.diffusion.latents import encode_unscaled

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
        raise ValueError(f"the latent scale needs at least {MIN_IMAGES} images, the data gave {images}")
    variance = squares / count - (total / count) ** 2
    return variance**-0.5, images
