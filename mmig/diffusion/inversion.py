"""DDIM inversion: the noise from which a deterministic sampler comes to given latents, and the way back.

One step serves both directions and every prediction type, because the noise process says what a prediction stands
for; for flow matching the same step is Euler's. Sampling with other schedulers is in `sampling.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmig.base.watching import steps
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.guidance import Predict, guided, text_guidance
from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.sampling import Denoiser

CLEAN = -1
"""Level below all timesteps of a variance-preserving schedule: no noise at all. In flow matching that is 0."""


@dataclass(frozen=True)
class Ladder:
    """The noise levels that a deterministic sampler visits, from the clean end up.

    Attributes:
        lower: level below each step, [n]; `CLEAN` where a variance-preserving schedule has none.
        upper: level above each step, [n]; also what the denoiser is told on this step, in either direction.
    """

    lower: Tensor
    upper: Tensor

    def __len__(self) -> int:
        return len(self.upper)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(self.lower, self.upper, strict=True))


def make_ladder(scheduler: Any, num_steps: int, strength: float = 1.0) -> Ladder:
    """The levels of DDIM (of Euler for flow matching) with a scheduler's schedule and timestep spacing.

    Args:
        scheduler: any diffusers scheduler; only its settings are read.
        num_steps: steps of the whole schedule.
        strength: how far up to go, in (0, 1]: the lowest int(num_steps * strength) steps.

    Raises:
        ScheduleError: a scheduler that the noise process cannot follow.
        ValueError: no step is left.
    """
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    if not 0.0 <= strength <= 1.0 or int(num_steps * strength) < 1:
        raise ValueError(
            f"inversion needs at least one step and a strength in (0, 1], found num_steps {num_steps} and strength "
            f"{strength:g}; raise either"
        )
    config = scheduler.config
    is_flow = NoiseProcess.from_scheduler(scheduler).prediction == "flow"
    if is_flow:
        plain = FlowMatchEulerDiscreteScheduler.from_config(config)
    else:  # the classes have different defaults for the spacing, and from_config forgets values that are defaults
        plain = DDIMScheduler.from_config(config, timestep_spacing=config.get("timestep_spacing", "leading"))
    plain.set_timesteps(num_steps)
    upper = plain.timesteps.flip(0)
    if is_flow:
        lower = torch.cat([upper.new_zeros(1), upper[:-1]])
    else:  # diffusers' DDIM takes this width even where the spacing of the timesteps is rounded
        lower = upper - config.num_train_timesteps // num_steps
        lower = torch.where(lower < 0, CLEAN if config.get("set_alpha_to_one", True) else 0, lower)
    count = int(num_steps * strength)
    return Ladder(lower[:count], upper[:count])


def without_guidance(predict: Predict, condition: Conditioning) -> Denoiser:
    """The denoiser that inversion should be given: one condition, no classifier-free guidance.

    Guidance multiplies the error that each inverted step makes (Mokady et al. 2023, section 3.1).
    """
    return guided(predict, {"full": condition}, text_guidance(1.0))


@torch.no_grad()
def invert(denoiser: Denoiser, process: NoiseProcess, clean: Tensor, ladder: Ladder) -> Tensor:
    """Noisy latents at the ladder's top from which `reconstruct` comes to `clean` (Song et al. 2021, section 4.3).

    Each step takes the prediction at the lower latents for that at the upper ones, so the way back is exact only in
    the limit of small steps. Equal to diffusers' `DDIMInverseScheduler` without clipping.

    Args:
        denoiser: normally `without_guidance(...)`.
        process: of the same scheduler as the ladder.
        clean: normalised latents, [B,C,h,w].
        ladder: levels to climb.
    """
    latents = clean
    for lower, upper in steps("inversion", ladder):
        prediction = denoiser(latents, upper.to(latents.device).expand(len(latents)))
        latents = move(process, prediction, latents, lower, upper)
    return latents


@torch.no_grad()
def reconstruct(denoiser: Denoiser, process: NoiseProcess, noisy: Tensor, ladder: Ladder) -> Tensor:
    """Clean latents from noisy ones at the ladder's top, [B,C,h,w], by DDIM without noise (Euler for flow matching).

    Another denoiser than that of `invert` (the target's condition, guidance, `layered_denoiser`) edits.
    """
    latents = noisy
    for lower, upper in steps("denoising", list(ladder)[::-1]):
        prediction = denoiser(latents, upper.to(latents.device).expand(len(latents)))
        latents = move(process, prediction, latents, upper, lower)
    return latents


def move(process: NoiseProcess, prediction: Tensor, latents: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Latents at level `end` with the x0 and the noise that a prediction at level `start` stands for.

    DDIM (Song et al. 2021, eq 12 with sigma 0), up or down; with flow matching it is x + (s_end - s_start) v.

    Args:
        prediction, latents: [B,C,h,w].
        start, end: one level for all samples, scalars.
    """
    clean, noise = latents, prediction  # without noise, a = 1 and s = 0, epsilon and v are both the noise
    if start != CLEAN:
        level = start.to(latents.device).expand(len(latents))
        clean, noise = process.x0_from(prediction, latents, level), process.noise_from(prediction, latents, level)
    return clean if end == CLEAN else process.add_noise(clean, noise, end.to(latents.device).expand(len(latents)))
