"""The denoising problem of every method: latents, draws and a condition to what the denoiser gets and must answer."""

from typing import NamedTuple

from torch import Tensor

from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.process import NoiseProcess


class DenoisingProblem(NamedTuple):
    """What a denoiser gets and should answer.

    Attributes:
        clean, noise: latents and the noise added to them, [B,c,h,w].
        noisy: x_t, [B,c,h,w].
        timesteps: [B].
        target: what is to be predicted, [B,c,h,w].
        condition: what was dropped left out.
    """

    clean: Tensor
    noise: Tensor
    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    condition: Conditioning


def denoising_problem(
    process: NoiseProcess, clean: Tensor, noise: Tensor, timesteps: Tensor, condition: Conditioning
) -> DenoisingProblem:
    """Noise the latents as drawn (L_SDM, MMIG eq 14).

    Args:
        process: the noise process.
        clean: latents of the images to draw, [B,c,h,w].
        noise: standard normal draw of the same shape, on any device; it keeps its precision.
        timesteps: [B], `NoiseProcess.sample_timesteps` of a draw, on any device.
        condition: of the denoiser.
    """
    noise, timesteps = noise.to(clean.device), timesteps.to(clean.device)
    noisy, target = process.add_noise(clean, noise, timesteps), process.target(clean, noise, timesteps)
    return DenoisingProblem(clean, noise, noisy, timesteps, target, condition)
