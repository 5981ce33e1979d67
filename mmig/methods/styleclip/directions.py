"""The direction of two texts in style space S, for the third way (StyleCLIP, section 6): formulas alone.

How the relevance of channels is measured is in `relevance.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmig.methods.styleclip.errors import StyleClipError


@dataclass(frozen=True)
class StyleDirections:
    """What was measured.

    Attributes:
        mean, std: of every channel that may move, [C].
        relevance: unit vectors in CLIP's space, [C,D].
        places: (index in S, channels) of the styles that may move, in their order; the channels sum to C.
    """

    mean: Tensor
    std: Tensor
    relevance: Tensor
    places: tuple[tuple[int, int], ...]


def text_direction(target: Tensor, neutral: Tensor) -> Tensor:
    """Delta t: unit vector from one text to another, [...,D] of unit vectors.

    Raises:
        StyleClipError: the two say the same to CLIP.
    """
    difference = target - neutral
    if bool((difference.norm(dim=-1) < 1e-6).any()):
        raise StyleClipError(
            "prompt: expected a text that CLIP tells from the neutral one, found that it reads the same"
        )
    return F.normalize(difference, dim=-1)


def channel_steps(relevance: Tensor, direction: Tensor, std: Tensor, beta: float) -> Tensor:
    """Delta s for alpha = 1, [C]: channels by their relevance, the most relevant one by its deviation.

    Args:
        relevance: [C,D].
        direction: Delta t, [D].
        std: of each channel, [C].
        beta: relevance below which a channel stays.

    Raises:
        StyleClipError: no channel is as relevant.
    """
    relevant = relevance @ direction
    kept = torch.where(relevant.abs() >= beta, relevant, torch.zeros_like(relevant))
    most = kept.abs().max()
    if most == 0:
        raise StyleClipError(
            f"sampling.beta: no channel is as relevant as {beta:g}, the most is {float(relevant.abs().max()):.3f}; "
            "take less"
        )
    return kept / most * std


def moved_styles(styles: Sequence[Tensor], places: Sequence[tuple[int, int]], steps: Tensor) -> list[Tensor]:
    """Styles [B,C] each with the steps added to those at `places`; steps are [C] or [B,C]."""
    moved = list(styles)
    for (place, _), part in zip(places, steps.split([width for _, width in places], dim=-1), strict=True):
        moved[place] = moved[place] + part
    return moved
