"""Layered controlled optimisation (MMIG paper, eq 15 and 16, after LayerDiffusion).

An image's object and its background have an embedding each, e_a and e_b. They are those of two phrases (amortised, as
in training), or are optimised on one image with the denoiser frozen (eq 15). How images are sampled with both is in
`layered_sampling.py`; the losses of training with the mixture (eq 17, 18) are in `mmig/diffusion/losses.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mmig.base.watching import steps
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.guidance import Predict
from mmig.diffusion.losses import masked_noise_loss, mix_embeddings
from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.sampling import draw_noise

DRAWS = 8
"""Of noise and timestep, over which `expected_loss` is a mean."""
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
    prediction = predict(noisy, timesteps, _under(condition, tokens.joined()))
    return masked_noise_loss(prediction, process.target(clean, noise, timesteps), _region(mask, mask_mode))


@torch.no_grad()
def expected_loss(
    predict: Predict,
    process: NoiseProcess,
    clean: Tensor,
    tokens: LayeredTokens,
    mask: Tensor,
    generators: Sequence[torch.Generator],
    *,
    mask_mode: MaskMode = "object",
    condition: Conditioning | None = None,
) -> Tensor:
    """Eq 15 itself, the mean over noise and timesteps, float32 [B]: what a step of `optimise_embeddings` only samples.

    Args:
        predict, process, clean, tokens, mask, mask_mode, condition: see `layered_loss`.
        generators: one a sample, for the noise; the same seeds make two embeddings comparable. The timesteps lie evenly
            over the schedule.
    """
    _check_counts(clean, tokens, mask, generators)
    losses = []
    for draw in range(DRAWS):
        noise = draw_noise(clean.shape[1:], generators, clean.device).to(clean.dtype)
        timesteps = process.sample_timesteps(torch.full((len(clean),), (draw + 0.5) / DRAWS)).to(clean.device)
        losses.append(layered_loss(predict, process, clean, noise, timesteps, tokens, mask, mask_mode, condition))
    return torch.stack(losses).mean(dim=0)


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
) -> LayeredTokens:
    """Embeddings that minimise eq 15 on given images: Adam on e_a and e_b, the denoiser as it is.

    The samples of a batch do not influence each other. No gradient reaches the denoiser's weights, frozen or not.

    Args:
        predict, process, clean, tokens, mask, mask_mode, condition: see `layered_loss`; `tokens` is the start.
        generators: one a sample, for the noise and timestep of each step.
        num_steps: 0 returns the start.
        lr: learning rate.

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
        for _ in steps("fitting the layers", range(num_steps)):
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
    return LayeredTokens(*(value.detach().to(dtype) for value in trained))


def _under(condition: Conditioning | None, tokens: Tensor) -> Conditioning:
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
