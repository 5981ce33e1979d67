"""Layered controlled optimisation and layered diffusion inference (MMIG paper, eq 15 and 16, after LayerDiffusion).

An image's object and its background have an embedding each, e_a and e_b. They are those of two phrases (amortised, as
in training), or are optimised on one image with the denoiser frozen (eq 15). Sampling then alternates between the
object's embedding and the mixture of both. The losses of training with the mixture (eq 17, 18) are in
`mmig/diffusion/losses.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.guidance import Predict, guided, text_guidance
from mmig.diffusion.losses import masked_noise_loss, mix_embeddings
from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.sampling import Denoiser, draw_noise, sample
from mmig.training.rng import generator

MaskMode = Literal["object", "background", "all"]
"""Where eq 15 compares: inside the object's mask M (as printed), outside it (as LayerDiffusion is said to), or all over
the image."""


class LayeredTokens(NamedTuple):
    """Text states of the object, e_a, and of the background, e_b, both padded to one length, [B,L,D] each."""

    object: Tensor
    background: Tensor

    def joined(self) -> Tensor:
        """[e_a, e_b] of eq 15: one after the other on the token axis, [B,2L,D]."""
        return torch.cat(self, dim=1)

    def mixed(self, alpha: float = 0.7) -> Tensor:
        """e_opt of eq 16, [B,L,D]."""
        return mix_embeddings(self.object, self.background, alpha)


@dataclass(frozen=True)
class LayeredConfig:
    """How `layered_edit` works. Steps and learning rate of eq 15 are Imagic's (Kawar et al. 2023): MMIG gives none.

    Attributes:
        inner_steps: of Adam on the embeddings; 0 keeps those of the phrases.
        lr: of Adam.
        mask_mode: where eq 15 compares.
        alpha: weight of the object in eq 16.
        num_steps: of the whole sampling schedule.
        strength: how far back in the noise the edit starts, in [0, 1].
        guidance_scale: weight of the text; 1 switches guidance off.
    """

    inner_steps: int = 500
    lr: float = 1e-3
    mask_mode: MaskMode = "object"
    alpha: float = 0.7
    num_steps: int = 50
    strength: float = 0.8
    guidance_scale: float = 7.5


def amortised(
    encode: Callable[[Sequence[str]], Tensor], objects: Sequence[str], backgrounds: Sequence[str]
) -> LayeredTokens:
    """The embeddings without any inner step: the text encoder's states of the two phrases of each sample.

    Args:
        encode: texts -> states [B,L,D] of a fixed length.
        objects, backgrounds: one phrase a sample.
    """
    if len(objects) != len(backgrounds):
        raise ValueError(
            f"layered: {len(objects)} object phrases and {len(backgrounds)} background phrases; give one of each a "
            'sample, "" where there is none'
        )
    return LayeredTokens(encode(objects), encode(backgrounds))


def layered_loss(
    predict: Predict,
    process: NoiseProcess,
    clean: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    tokens: LayeredTokens,
    mask: Tensor,
    mask_mode: MaskMode = "object",
    condition: Conditioning | None = None,
) -> Tensor:
    """What eq 15 minimises: the mean square of M * (target - prediction under [e_a, e_b]), float32 [B].

    Args:
        predict: the denoiser, unguided; its cross-attention must take any number of tokens.
        process: its noise process.
        clean, noise: latents of the image and the noise added to them, [B,C,h,w].
        timesteps: [B].
        tokens: the two embeddings.
        mask: of the object on the latent grid, in {0, 1}, [B,1,h,w] (`losses.mask_to_latents`).
        mask_mode: where to compare.
        condition: what else conditions the denoiser; its tokens and their mask are replaced.
    """
    noisy = process.add_noise(clean, noise, timesteps)
    prediction = predict(noisy, timesteps, _with_tokens(condition, tokens.joined()))
    return masked_noise_loss(prediction, process.target(clean, noise, timesteps), _region(mask, mask_mode))


def optimise_embeddings(
    predict: Predict,
    process: NoiseProcess,
    clean: Tensor,
    tokens: LayeredTokens,
    mask: Tensor,
    generators: Sequence[torch.Generator],
    *,
    num_steps: int = 500,
    lr: float = 1e-3,
    mask_mode: MaskMode = "object",
    condition: Conditioning | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> LayeredTokens:
    """Embeddings that minimise eq 15 on given images: Adam on e_a and e_b, the denoiser as it is.

    The samples of a batch do not influence each other. No gradient reaches the denoiser's weights, frozen or not.

    Args:
        predict, process, clean, tokens, mask, mask_mode, condition: see `layered_loss`; `tokens` is the start.
        generators: one a sample, for the noise and timestep of each step.
        num_steps: 0 returns the start.
        lr: learning rate.
        on_step: called after each step with its index and the values of eq 15 before it, [B].

    Raises:
        ValueError: not one mask, generator and pair of embeddings a sample, or a setting out of range.
    """
    _check_counts(clean, tokens, mask, generators)
    _region(mask, mask_mode)
    if num_steps < 0 or lr <= 0:
        raise ValueError(f"layered: num_steps must be at least 0 and lr above 0, found {num_steps} and {lr:g}")
    if num_steps == 0:
        return tokens
    dtype = tokens.object.dtype
    with torch.enable_grad():  # editing runs without gradients
        trained = [value.detach().float().clone().requires_grad_() for value in tokens]
        adam = torch.optim.Adam(trained, lr=lr)
        for step in range(num_steps):
            noise = draw_noise(clean.shape[1:], generators, clean.device).to(clean.dtype)
            uniform = torch.stack([torch.rand((), generator=source, device=source.device) for source in generators])
            timesteps = process.sample_timesteps(uniform).to(clean.device)
            current = LayeredTokens(*(value.to(dtype) for value in trained))
            losses = layered_loss(
                predict, process, clean.detach(), noise, timesteps, current, mask, mask_mode, condition
            )
            for value, gradient in zip(trained, torch.autograd.grad(losses.sum(), trained), strict=True):
                value.grad = gradient
            adam.step()
            if on_step is not None:
                on_step(step, losses.detach())
    return LayeredTokens(*(value.detach().to(dtype) for value in trained))


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


def layered_edit(
    predict: Predict,
    scheduler: Any,
    source_latents: Tensor,
    tokens: LayeredTokens,
    mask: Tensor,
    generators: Sequence[torch.Generator],
    null_tokens: Tensor,
    config: LayeredConfig | None = None,
    condition: Conditioning | None = None,
) -> Tensor:
    """Edit images by layers: eq 15 on the source, then sampling from its noised latents with e_a and e_opt in turn.

    Args:
        predict: the denoiser, unguided; it gets float32 latents and answers in float32.
        scheduler: any diffusers scheduler.
        source_latents: of the images to edit, normalised, [B,C,h,w].
        tokens: text states of the goal's object and background phrases (`amortised`).
        mask: of the object in the source, on the latent grid, [B,1,h,w].
        generators: one a sample. What eq 15 draws comes from generators of its own with the same seeds, so that the
            sampling noise does not depend on the number of inner steps.
        null_tokens: text states of the empty prompt, [B,L,D] or [1,L,D].
        config: steps, learning rate, mixture, scales.
        condition: what else conditions the denoiser; its tokens and their mask are replaced.

    Returns:
        Clean latents [B,C,h,w], float32.
    """
    config, source_latents = config or LayeredConfig(), source_latents.float()
    tokens = optimise_embeddings(
        predict,
        NoiseProcess.from_scheduler(scheduler),
        source_latents,
        tokens,
        mask,
        [generator(source.initial_seed(), "layered") for source in generators],
        num_steps=config.inner_steps,
        lr=config.lr,
        mask_mode=config.mask_mode,
        condition=condition,
    )
    null = _with_tokens(condition, null_tokens.expand_as(tokens.object))
    weights = text_guidance(config.guidance_scale)
    of_object, of_both = (
        guided(predict, {"full": _with_tokens(condition, states), "null": null}, weights)
        for states in (tokens.object, tokens.mixed(config.alpha))
    )
    return sample(
        layered_denoiser(of_object, of_both, scheduler),
        scheduler,
        source_latents.shape[1:],
        config.num_steps,
        generators,
        source_latents=source_latents,
        strength=config.strength,
        device=source_latents.device,
    )


def _with_tokens(condition: Conditioning | None, tokens: Tensor) -> Conditioning:
    return Conditioning(tokens) if condition is None else replace(condition, tokens=tokens, mask=None)


def _region(mask: Tensor, mode: MaskMode) -> Tensor:
    regions = {"object": mask, "background": 1 - mask, "all": torch.ones_like(mask)}
    if mode not in regions:
        raise ValueError(f"layered: mask_mode must be one of {', '.join(regions)}, found {mode!r}")
    return regions[mode]


def _check_counts(clean: Tensor, tokens: LayeredTokens, mask: Tensor, generators: Sequence[Any]) -> None:
    found = {
        "object embeddings": len(tokens.object),
        "background embeddings": len(tokens.background),
        "masks": len(mask),
        "generators": len(generators),
    }
    for what, number in found.items():
        if number != len(clean):
            raise ValueError(f"layered: {len(clean)} samples and {number} {what}; give one a sample")
