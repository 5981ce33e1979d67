"""The reverse process with any diffusers scheduler: from noise, or from noised source latents (img2img)."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmig.base.watching import steps

Seed = torch.Generator | int
"""A generator, or the number that seeds a new one."""
Generators = Seed | Sequence[Seed]
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(noisy [B,C,h,w], timesteps [B]) -> prediction [B,C,h,w], guidance included."""


class Step(NamedTuple):
    """A step of the reverse process.

    Attributes:
        index: from 0.
        count: steps that are taken in all, fewer than the schedule's when they start from source latents.
        timestep: the scheduler's, a scalar tensor.
        scale: from latents to what the denoiser sees; the same factor for every element.
    """

    index: int
    count: int
    timestep: Tensor
    scale: Callable[[Tensor], Tensor]


BeforeStep = Callable[[Tensor, Step], Tensor]
"""(latents [B,C,h,w], step) -> latents from which the step is taken instead."""


def per_sample(generators: Generators, count: int) -> list[torch.Generator]:
    """One generator a sample: the given ones, or `count` new ones seeded from a single one.

    Raises:
        ValueError: another number of generators than samples, or what is neither a generator nor a seed.
    """
    if is_several(generators):
        if len(generators) != count:
            raise ValueError(f"generator: expected one, or one for each of {count} samples, found {len(generators)}")
        return [as_generator(one) for one in generators]
    source = as_generator(generators)
    seeds = torch.randint(2**62, (count,), generator=source, device=source.device)
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def is_several(generators: Any) -> bool:
    """Whether this is a list (or tuple) of generators or seeds, not a single one."""
    return isinstance(generators, Sequence) and not isinstance(generators, str)


def as_generator(seed: Any) -> torch.Generator:
    """A generator as it is; of a number, a new one on the CPU that it seeds.

    Raises:
        ValueError: something else, or a number that torch takes for no seed.
    """
    if isinstance(seed, torch.Generator):
        return seed
    if isinstance(seed, Integral) and not isinstance(seed, bool) and 0 <= seed < 2**64:
        return torch.Generator().manual_seed(int(seed))
    raise ValueError(f"generator: expected a torch.Generator, a seed in [0, 2**64) or a list of them, found {seed!r}")


def draw_noise(
    shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal [B,*shape], each sample from its own generator, so that it does not depend on the batch."""
    noise = [torch.randn(*shape, generator=source, device=source.device) for source in generators]
    return torch.stack([value.to(device) for value in noise])


def sample(
    denoiser: Denoiser,
    scheduler: Any,
    shape: Sequence[int],
    num_steps: int,
    generators: Sequence[torch.Generator],
    *,
    source_latents: Tensor | None = None,
    strength: float = 1.0,
    device: torch.device | str = "cpu",
    before_step: BeforeStep | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
    schedule: Mapping[str, Any] = MappingProxyType({}),
) -> Tensor:
    """Run the reverse process; it can be watched and stopped (`mmig.base.watching`).

    Args:
        denoiser: predicts what the scheduler expects (its `prediction_type`).
        scheduler: any diffusers scheduler; it is copied, not changed.
        shape: (C, h, w) of the latents.
        num_steps: steps of the whole schedule.
        generators: one a sample; they give the initial noise and, for stochastic schedulers, the noise of each step.
        source_latents: normalised latents [B,C,h,w] of the source to start from (SDEdit, Meng et al. 2022); None
            starts from noise.
        strength: how far back to go with source latents, in [0, 1]: 0 returns them, 1 starts at the noisiest step.
        device: where the latents live.
        before_step: called before each step; it may change the latents (`attention_guidance`).
        on_step: called after each step with its index and the latents.
        schedule: further arguments of the scheduler's `set_timesteps` (`DenoiserKind.schedule`).

    Returns:
        Clean latents [B,C,h,w], float32.

    Raises:
        ValueError: a strength or number of steps out of range, or another number of generators than source latents.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must be in [0, 1], found {strength}")
    if num_steps < 1:
        raise ValueError(f"num_steps: expected a whole number of at least 1, found {num_steps}")
    if source_latents is not None and len(generators) != len(source_latents):
        raise ValueError(f"generators: expected one a source, of {len(source_latents)}, found {len(generators)}")
    scheduler = type(scheduler).from_config(scheduler.config)
    _set_timesteps(scheduler, num_steps, device, schedule)
    noise = draw_noise(shape, generators, device)
    first = 0
    if source_latents is not None:
        first = num_steps - min(int(num_steps * strength), num_steps)
        if first == num_steps:  # some schedulers have a timestep more
            return source_latents.clone()
    first *= getattr(scheduler, "order", 1)
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    latents = _start(scheduler, noise, source_latents, timesteps)
    extra = _step_arguments(scheduler, generators)
    for index, timestep in enumerate(steps("denoising", timesteps)):
        scale = partial(_scale, scheduler, timestep)
        if before_step is not None:
            latents = before_step(latents, Step(index, len(timesteps), timestep, scale))
        prediction = denoiser(scale(latents), timestep.expand(len(latents)))
        latents = scheduler.step(prediction, timestep, latents, **extra).prev_sample
        if on_step is not None:
            on_step(index, latents)
    return latents


def _set_timesteps(scheduler: Any, num_steps: int, device: torch.device | str, schedule: Mapping[str, Any]) -> None:
    try:
        scheduler.set_timesteps(num_steps, device=device, **schedule)
    except ValueError as error:
        most = scheduler.config.num_train_timesteps
        if num_steps <= most:
            raise
        kind = type(scheduler).__name__
        raise ValueError(f"num_steps: expected at most {most}, the steps of {kind}, found {num_steps}") from error


def _start(scheduler: Any, noise: Tensor, source: Tensor | None, timesteps: Tensor) -> Tensor:
    if source is None:
        return noise * getattr(scheduler, "init_noise_sigma", 1.0)
    if hasattr(scheduler, "scale_noise"):  # flow matching
        return scheduler.scale_noise(source, timesteps[:1], noise)
    return scheduler.add_noise(source, noise, timesteps[:1].expand(len(noise)))


def _scale(scheduler: Any, timestep: Tensor, latents: Tensor) -> Tensor:
    if not hasattr(scheduler, "scale_model_input"):  # flow matching
        return latents
    return scheduler.scale_model_input(latents, timestep)


def _step_arguments(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    takes = inspect.signature(scheduler.step).parameters
    return {"generator": list(generators)} if "generator" in takes else {}
