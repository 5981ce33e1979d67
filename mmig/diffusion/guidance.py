"""Guidance as one weighted sum of named branches: classifier-free, InstructPix2Pix's two scales, and any other.

Every scheme is a set of weights that sum to 1, so that where all branches agree guidance changes nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mmig.diffusion.conditioning import Conditioning, concatenate

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(noisy [B,C,h,w], timesteps [B], condition) -> prediction [B,C,h,w]."""


def text_guidance(scale: float) -> dict[str, float]:
    """Classifier-free guidance (Ho & Salimans 2022): null + scale * (full - null)."""
    return {"full": scale, "null": 1.0 - scale}


def instruct_pix2pix_guidance(text_scale: float, image_scale: float) -> dict[str, float]:
    """Two scales (Brooks et al. 2023, eq 3): null + image_scale (image - null) + text_scale (full - image)."""
    return {"full": text_scale, "image": image_scale - text_scale, "null": 1.0 - image_scale}


def source_branches(text: Conditioning, null: Conditioning, source_latents: Tensor) -> dict[str, Conditioning]:
    """The branches of `instruct_pix2pix_guidance`.

    Args:
        text: what the text conditions, of B samples.
        null: the same of no text.
        source_latents: unscaled latents of the source, [B,c,h,w].
    """
    return {
        "full": replace(text, image_latents=source_latents),
        "image": replace(null, image_latents=source_latents),
        "null": replace(null, image_latents=torch.zeros_like(source_latents)),
    }


def combine(predictions: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Weighted sum of the branches that have a weight other than 0, in float32, as scales magnify rounding.

    Raises:
        ValueError: the weights do not sum to 1, or a weighted branch has no prediction.
    """
    if abs(sum(weights.values()) - 1.0) > 1e-6:
        raise ValueError(f"guidance weights must sum to 1, found {dict(weights)} with sum {sum(weights.values()):g}")
    if missing := [name for name, weight in weights.items() if weight != 0 and name not in predictions]:
        raise ValueError(f"guidance branch {missing[0]!r} has a weight and no prediction; given: {sorted(predictions)}")
    return torch.stack([weight * predictions[name].float() for name, weight in weights.items() if weight != 0]).sum(
        dim=0
    )


def guided(
    predict: Predict, branches: Mapping[str, Conditioning], weights: Mapping[str, float]
) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoiser (noisy, timesteps) -> prediction that runs the weighted branches in one forward and combines them.

    Args:
        predict: the unguided denoiser.
        branches: condition of each branch by name; all of one batch size and with the same fields.
        weights: weight of each branch; those of weight 0 are not run.
    """
    active = [name for name, weight in weights.items() if weight != 0]
    if unknown := [name for name in active if name not in branches]:
        raise ValueError(f"guidance branch {unknown[0]!r} has a weight and no condition; given: {sorted(branches)}")
    together = concatenate([branches[name] for name in active])

    def run(noisy: Tensor, timesteps: Tensor) -> Tensor:
        repeats = len(active)
        prediction = predict(noisy.repeat(repeats, 1, 1, 1), timesteps.repeat(repeats), together)
        return combine(dict(zip(active, prediction.chunk(repeats), strict=True)), weights)

    return run
