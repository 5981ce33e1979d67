"""From conditions to images: guided denoising from noise, and the autoencoder behind it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.guidance import guided
from mmig.diffusion.latents import decode, latent_shape
from mmig.diffusion.sampling import Generators, sample


def draw_guided(
    vae: nn.Module,
    unet: nn.Module,
    scheduler: Any,
    branches: Mapping[str, Conditioning],
    weights: Mapping[str, float],
    size: tuple[int, int],
    num_steps: int,
    generators: Generators,
    device: torch.device | str,
    source_latents: Tensor | None = None,
    strength: float = 1.0,
) -> Tensor:
    """Images [B,3,H,W] in [-1,1].

    Args:
        vae: autoencoder.
        unet: denoiser.
        scheduler: any diffusers scheduler.
        branches, weights: see `guided`.
        size: (H, W) in pixels.
        num_steps, generators, device, source_latents, strength: see `sample`.
    """
    denoiser = guided(
        lambda noisy, timesteps, condition: denoise(unet, noisy, timesteps, condition),
        branches,
        weights,
    )
    latents = sample(
        denoiser,
        scheduler,
        latent_shape(vae, *size),
        num_steps,
        generators,
        source_latents=source_latents,
        strength=strength,
        device=device,
    )
    return decode(vae, latents).float().clamp(-1, 1)
