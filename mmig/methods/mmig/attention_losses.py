"""Attention maps of concepts, and the two A-STAR losses on them (MMIG eq 19, 20; Agarwal et al. 2023, eq 2, 3).

Functions of tensors; where the attention comes from is `attention`, which tokens a concept has is `concepts`. All in
float32, without an operation that autocast would lower.
"""

from math import exp
from typing import NamedTuple

import torch
from torch import Tensor

from mmig.diffusion.concepts import ConceptTokens


class ConceptMaps(NamedTuple):
    """One attention map a concept.

    Attributes:
        maps: float32 [B,K,h,w], not negative, the largest value of a map 1; 0 where a concept is not valid.
        valid: bool [B,K].
    """

    maps: Tensor
    valid: Tensor


def concept_maps(attention: Tensor, tokens: ConceptTokens) -> ConceptMaps:
    """A^m of every concept m, from the attention of every token: the mean of its tokens, smoothed and normalised.

    3x3 neighbours are weighed as Attend-and-Excite does (Chefer et al. 2023), borders reflected. Then each map is
    divided by its maximum, with a gradient, which makes overlap a matter of place: on raw maps two concepts at one
    place overlap less if one of them is merely suppressed, and every raw map is far below a binary region.

    Args:
        attention: mean over layers and heads, [B,T,h,w] (`AttentionCapture.average`); h, w >= 2.
        tokens: where the concepts are among the T tokens.

    Raises:
        ValueError: tokens of another batch or text, or maps too small to smooth.
    """
    found = (attention.shape[0], attention.shape[1])
    if found != tuple(tokens.content.shape):
        raise ValueError(
            f"concept tokens: located in {tuple(tokens.content.shape)} samples and tokens, but the attention has "
            f"{found}; encode the same texts with the same number of chunks"
        )
    tokens = tokens.to(attention.device)
    maps = _smooth(joined_maps(attention.float(), tokens.positions))
    maps = maps / (maps.amax(dim=(-2, -1), keepdim=True) + 1e-6)
    return ConceptMaps(torch.where(tokens.valid[..., None, None], maps, 0), tokens.valid)


def text_attention(attention: Tensor, tokens: ConceptTokens) -> Tensor:
    """Attention [B,T,h,w] to the T tokens of the text alone, without those that a connector puts behind them."""
    return attention[:, : tokens.content.shape[1]]


def joined_maps(maps: Tensor, positions: Tensor) -> Tensor:
    """Attention of concepts, [B,K,h,w]: the mean of their tokens' maps [B,T,h,w] at positions [B,K,S] (-1: none)."""
    count, most = positions.shape[1:]
    index = positions.clamp(min=0).flatten(1)[..., None, None].expand(-1, -1, *maps.shape[2:])
    pieces = maps.gather(1, index).unflatten(1, (count, most))
    present = (positions >= 0)[..., None, None]
    return (pieces * present).sum(dim=2) / present.sum(dim=2).clamp(min=1)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """R = sum min(a, b) / sum (a + b) over the last two dimensions: 0 disjoint, 1/2 identical; there is no factor 2.

    Two maps of zeros have overlap 0.
    """
    total = (a + b).sum(dim=(-2, -1))
    return torch.minimum(a, b).sum(dim=(-2, -1)) / torch.where(total > 0, total, 1)


def segregation_loss(maps: Tensor, valid: Tensor) -> Tensor:
    """L_AS (MMIG eq 19): sum of the overlaps of all unordered pairs of concepts, float32 [B].

    Each pair gives 0 (apart) to 1/2 (one place). Fewer than two valid concepts give 0, connected to the graph.

    Args:
        maps: A_t, not negative, [B,K,h,w].
        valid: bool [B,K]; other concepts count nothing.
    """
    _check(maps, valid)
    first, second = torch.triu_indices(maps.shape[1], maps.shape[1], offset=1, device=maps.device)
    pairs = overlap(maps[:, first].float(), maps[:, second].float())
    return torch.where(valid[:, first] & valid[:, second], pairs, 0).sum(dim=1)


def retention_loss(next_maps: Tensor, previous_regions: Tensor, valid: Tensor) -> Tensor:
    """L_AR (MMIG eq 20): sum over the concepts of 1 - overlap with where they were one step noisier, float32 [B].

    "t-1" of the paper is the next step of the sampler, not the next of the 1000 timesteps. Each concept gives 1/2
    (kept exactly) to 1. No valid concept gives 0, connected to the graph.

    Args:
        next_maps: A_{t-1}, in [0, 1], [B,K,h,w].
        previous_regions: B_t, [B,K,h,w] in {0, 1} (`binarize`, or masks of the data); no gradient goes there.
        valid: bool [B,K].
    """
    _check(next_maps, valid)
    if next_maps.shape != previous_regions.shape:
        raise ValueError(
            f"retention loss: maps of shape {tuple(next_maps.shape)} do not fit regions of shape "
            f"{tuple(previous_regions.shape)}"
        )
    lost = 1 - overlap(next_maps.float(), previous_regions.detach().float())
    return torch.where(valid, lost, 0).sum(dim=1)


@torch.no_grad()
def binarize(maps: Tensor, threshold: float = 0.5) -> Tensor:
    """B_t: where a concept's attention is high, float32 [B,K,h,w] in {0, 1}, without gradient.

    Args:
        maps: not negative, [B,K,h,w]; a map of zeros has an empty region.
        threshold: part of the map's maximum, in (0, 1]; A-STAR does not say, 0.3 is Prompt-to-Prompt's.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"attention threshold: expected a number in (0, 1], found {threshold}")
    return ((maps >= threshold * maps.amax(dim=(-2, -1), keepdim=True)) & (maps > 0)).float()


def _smooth(maps: Tensor) -> Tensor:
    """3x3 smoothing with weights exp(-d^2) in each direction: Attend-and-Excite's kernel, not a sigma of 0.5."""
    if min(maps.shape[-2:]) < 2:
        raise ValueError(f"attention maps of {tuple(maps.shape[-2:])} are too small to smooth; expected 2x2")
    side = exp(-1.0) / (1 + 2 * exp(-1.0))
    # not F.pad: its backward pass is not deterministic on GPUs
    rows = torch.cat([maps[..., 1:2, :], maps, maps[..., -2:-1, :]], dim=-2)
    rows = (1 - 2 * side) * maps + side * (rows[..., :-2, :] + rows[..., 2:, :])
    both = torch.cat([rows[..., 1:2], rows, rows[..., -2:-1]], dim=-1)
    return (1 - 2 * side) * rows + side * (both[..., :-2] + both[..., 2:])


def _check(maps: Tensor, valid: Tensor) -> None:
    if maps.ndim != 4 or maps.shape[:2] != valid.shape:
        raise ValueError(
            f"attention loss: expected maps [B,K,h,w] and valid [B,K], found {tuple(maps.shape)} and "
            f"{tuple(valid.shape)}"
        )
