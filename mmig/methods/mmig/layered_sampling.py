"""Layered diffusion inference: an edit under the embeddings of object and background (MMIG paper, section 3.3).

Sampling alternates between the object's embedding and the mixture of both. Where the embeddings come from (eq 15, 16)
is `layered.py`; the editor that users meet is `layered_editor.py`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmig.base.values import check_values
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.guidance import Predict
from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.sampling import Denoiser, sample
from mmig.methods.mmig.editor import SamplingConfig
from mmig.methods.mmig.layered import LayeredTokens, MaskMode, expected_loss, optimise_embeddings
from mmig.training.rng import generator


@dataclass
class LayeredSampling(SamplingConfig):
    """How a layered edit samples: as any other, after eq 15. Steps and rate are Imagic's (Kawar et al. 2023): MMIG
    gives none.

    Attributes:
        inner_steps: of Adam on the embeddings; 0 keeps those of the phrases.
        lr: of Adam.
        mask_mode: where eq 15 compares.
        alpha: weight of the object in eq 16.
    """

    inner_steps: int = 500
    lr: float = 1e-3
    mask_mode: MaskMode = "object"
    alpha: float = 0.7

    def __post_init__(self) -> None:
        """Raise ValueError for what eq 15 or 16, or the sampling after many inner steps, could not use."""
        super().__post_init__()
        check_values(self, "sampling", inner_steps=(0, math.inf), alpha=(0, 1))
        if self.lr <= 0:
            raise ValueError(f"sampling.lr: expected above 0, found {self.lr!r}")


class LayeredEdit(NamedTuple):
    """What `layered_edit` gives: clean latents [B,C,h,w] and `expected_loss` before and after eq 15, [B] each."""

    latents: Tensor
    loss_before: Tensor
    loss_after: Tensor


def by_step(denoiser_at: Callable[[int], Denoiser], calls_per_step: int = 1) -> Denoiser:
    """A denoiser for one call of `sample` that knows the index of the step, by counting its calls.

    Args:
        denoiser_at: the denoiser of the step of that index, from 0.
        calls_per_step: how often the scheduler asks in a step: its `order`, 2 for Heun's method.
    """
    calls = count()

    def denoise(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return denoiser_at(next(calls) // calls_per_step)(noisy, timesteps)

    return denoise


def layered_denoiser(object_denoiser: Denoiser, mixed_denoiser: Denoiser, scheduler: Any) -> Denoiser:
    """Layered diffusion inference: the object's embedding on steps of even index, the mixture on the others.

    The index, not the timestep, decides: the timesteps of Stable Diffusion's 50 steps are all odd. For one call of
    `sample`.

    Args:
        object_denoiser: under e_a.
        mixed_denoiser: under e_opt (eq 16).
        scheduler: the one that will be sampled with; says how often it asks in a step.
    """
    denoisers = (object_denoiser, mixed_denoiser)
    return by_step(lambda index: denoisers[index % 2], getattr(scheduler, "order", 1))


@torch.no_grad()
def layered_edit(
    predict: Predict,
    denoiser_under: Callable[[Tensor], Denoiser],
    scheduler: Any,
    source_latents: Tensor,
    tokens: LayeredTokens,
    mask: Tensor,
    generators: Sequence[torch.Generator],
    config: LayeredSampling | None = None,
    condition: Conditioning | None = None,
    from_noise: bool = False,
    schedule: Mapping[str, Any] = MappingProxyType({}),
) -> LayeredEdit:
    """Edit images by layers: eq 15 on the source, then sampling from its noised latents with e_a and e_opt in turn.

    Args:
        predict: the denoiser, unguided; it gets float32 latents and answers in float32. Its weights stay as they are.
        denoiser_under: text states [B,L,D] -> the denoiser under them, guidance included.
        scheduler: any diffusers scheduler.
        source_latents: of the images to edit, normalised, [B,C,h,w].
        tokens: text states of the goal's object and background phrases (`amortised`).
        mask: of the object in the source, on the latent grid, [B,1,h,w].
        generators: one a sample. What eq 15 draws comes from generators of its own with the same seeds, so that the
            sampling noise does not depend on the number of inner steps.
        config: steps, learning rate, mixture, strength.
        condition: what else conditions the denoiser in eq 15; its tokens and their mask are replaced.
        from_noise: start from noise alone, whatever the strength: for a denoiser that sees the source beside it.
        schedule: as of `sample`.
    """
    config, source_latents = config or LayeredSampling(), source_latents.float()
    seeds = [source.initial_seed() for source in generators]
    problem = (predict, NoiseProcess.from_scheduler(scheduler), source_latents)
    where: dict[str, Any] = {"mask_mode": config.mask_mode, "condition": condition}

    def measured(embeddings: LayeredTokens) -> Tensor:
        return expected_loss(*problem, embeddings, mask, [generator(seed, "layered loss") for seed in seeds], **where)

    before = measured(tokens)
    own = [generator(seed, "layered") for seed in seeds]
    found = optimise_embeddings(*problem, tokens, mask, own, num_steps=config.inner_steps, lr=config.lr, **where)
    denoisers = (denoiser_under(states) for states in (found.object, found.mixed(config.alpha)))
    latents = sample(
        layered_denoiser(*denoisers, scheduler),
        scheduler,
        source_latents.shape[1:],
        config.num_steps,
        generators,
        source_latents=None if from_noise else source_latents,
        strength=config.strength,
        device=source_latents.device,
        schedule=schedule,
    )
    return LayeredEdit(latents, before, before if found is tokens else measured(found))
