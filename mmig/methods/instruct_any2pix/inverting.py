"""z_k = inverse(X_k) of Algorithm 1, and the way back under the new condition."""

from typing import Any

import torch
from torch import Tensor, nn

from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.guidance import guided, text_guidance
from mmig.diffusion.inversion import Ladder, invert, make_ladder, reconstruct, without_guidance
from mmig.diffusion.latents import decode, encode
from mmig.diffusion.process import NoiseProcess

MOST_STRETCH = 10.0
"""Farthest that the standard deviation of inverted latents may be from 1, as a factor either way: what is farther is no
noise to draw from. A flat picture or a fresh denoiser stay well inside of it."""


class InversionError(ValueError):
    """Latents that are no picture's or no noise; one line says which."""


class Inverter:
    """DDIM's inversion with a decoder, and its sampling by the same levels, whatever sampler the decoder names.

    SDXL's own scheduler would stretch latents that it is given by 11.7.

    Args:
        vae, unet: autoencoder and denoiser, on one device.
        scheduler: of diffusers; its noise process and spacing count alone.
        num_steps: of both ways.
    """

    def __init__(self, vae: nn.Module, unet: nn.Module, scheduler: Any, num_steps: int) -> None:
        self.vae, self.unet = vae, unet
        self.process = NoiseProcess.from_scheduler(scheduler)
        self.ladder: Ladder = make_ladder(scheduler, num_steps)

    @torch.no_grad()
    def invert(self, images: Tensor, condition: Conditioning, keys: list[str]) -> Tensor:
        """z_k of pictures, [B,C,h,w]; without guidance, which would add up its errors.

        Args:
            images: X_k, [B,3,H,W] in [-1,1].
            condition: the one of nothing, or of what the picture shows.
            keys: of the samples, for messages.

        Raises:
            InversionError: latents with values that are no numbers, or that are far from noise afterwards.
        """
        clean = encode(self.vae, images.to(self.unet.device, self.vae.dtype))
        _check_finite(clean, keys, "the autoencoder gives", "load it in float32, or look at the picture")
        found = invert(without_guidance(self._predict, condition), self.process, clean, self.ladder)
        _check_finite(found, keys, "inversion gives", "take more steps, or load the denoiser in float32")
        spreads = found.flatten(1).std(dim=1).tolist()
        for key, spread in zip(keys, spreads, strict=True):
            if not 1 / MOST_STRETCH <= spread <= MOST_STRETCH:
                raise InversionError(
                    f"sample {key!r}: expected inverted latents of a standard deviation of about 1, found "
                    f"{spread:.3g}; take more steps, or a decoder that was trained on such pictures"
                )
        return found

    @torch.no_grad()
    def draw(self, noisy: Tensor, branches: dict[str, Conditioning], guidance_scale: float) -> Tensor:
        """X_out = F_diffusion(z'_k, H'_gen), [B,3,H,W] in [-1,1].

        Args:
            noisy: z'_k.
            branches: conditions "full" and "null".
            guidance_scale: w.
        """
        denoiser = guided(self._predict, branches, text_guidance(guidance_scale))
        latents = reconstruct(denoiser, self.process, noisy, self.ladder)
        return decode(self.vae, latents.to(self.vae.dtype)).float().clamp(-1, 1)

    def _predict(self, noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
        return denoise(self.unet, noisy, timesteps, condition)


def as_ddim(scheduler: Any) -> Any:
    """DDIM over the noise process of another scheduler of diffusers, with its spacing."""
    from diffusers import DDIMScheduler

    spacing = scheduler.config.get("timestep_spacing", "leading")
    return DDIMScheduler.from_config(scheduler.config, timestep_spacing=spacing, clip_sample=False)


def _check_finite(latents: Tensor, keys: list[str], what: str, advice: str) -> None:
    for key, finite in zip(keys, latents.flatten(1).isfinite().all(dim=1).tolist(), strict=True):
        if not finite:
            raise InversionError(f"sample {key!r}: {what} values that are no numbers; {advice}")
