"""Attention maps of concepts, and the two A-STAR losses on them (MMIG eq 19, 20; Agarwal et al. 2023, eq 2, 3).

Functions of tensors; where the attention comes from is `attention`, which tokens a concept has is `concepts`. All in
float32, without an operation that autocast would lower.
"""

from math import exp
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mmig.diffusion.concepts import ConceptTokens

Subtoken = Literal["mean", "last", "max"]
Normalisation = Literal["max", "softmax100", "none"]


class ConceptMaps(NamedTuple):
    """One attention map a concept.

    Attributes:
        maps: float32 [B,K,h,w], not negative, 0 where a concept is not valid; with `norm` "max" the largest value of
            a map is 1.
        valid: bool [B,K].
    """

    maps: Tensor
    valid: Tensor


def concept_maps(
    attention: Tensor,
    tokens: ConceptTokens,
    *,
    subtoken: Subtoken = "mean",
    smooth: bool = True,
    norm: Normalisation = "max",
) -> ConceptMaps:
    """A^m of every concept m, from the attention of every token.

    Max-normalisation, which has a gradient, makes overlap a matter of place: on raw maps two concepts at one place
    overlap less if one of them is merely suppressed, and every raw map is far below a binary region.

    Args:
        attention: mean over layers and heads, [B,T,h,w] (`AttentionCapture.average`); with smoothing h, w >= 2.
        tokens: where the concepts are among the T tokens.
        subtoken: how a concept of several tokens is joined: their mean, the last one, or at each position the largest.
        smooth: weigh 3x3 neighbours as Attend-and-Excite does (Chefer et al. 2023), borders reflected.
        norm: "max" divides each map by its maximum; "softmax100" (Attend-and-Excite) takes softmax(100 A) over the
            tokens of the text before anything else; "none" keeps probabilities.

    Raises:
        ValueError: tokens of another batch or text.
    """
    found = (attention.shape[0], attention.shape[1])
    if found != tuple(tokens.content.shape):
        raise ValueError(
            f"concept tokens: located in {tuple(tokens.content.shape)} samples and tokens, but the attention has "
            f"{found}; encode the same texts with the same number of chunks"
        )
    if norm not in get_args(Normalisation):
        raise ValueError(f"norm of the attention maps: expected one of {get_args(Normalisation)}, found {norm!r}")
    tokens = tokens.to(attention.device)
    maps = attention.float()
    if norm == "softmax100":
        outside = ~tokens.content[..., None, None]
        maps = (100 * maps).masked_fill(outside, torch.finfo(maps.dtype).min).softmax(dim=1)
    maps = _join(maps, tokens.positions, subtoken)
    if smooth:
        maps = _smooth(maps)
    if norm == "max":
        maps = maps / (maps.amax(dim=(-2, -1), keepdim=True) + 1e-6)
    return ConceptMaps(torch.where(tokens.valid[..., None, None], maps, 0), tokens.valid)


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
def binarize(maps: Tensor, threshold: float | Literal["otsu"] = 0.5) -> Tensor:
    """B_t: where a concept's attention is high, float32 [B,K,h,w] in {0, 1}, without gradient.

    Args:
        maps: not negative, [B,K,h,w]; a map of zeros has an empty region.
        threshold: part of the map's maximum, in (0, 1]; A-STAR does not say, 0.3 is Prompt-to-Prompt's. "otsu" splits
            each map where the variance between the two sides is largest (Otsu 1979).
    """
    if threshold == "otsu":
        level = _otsu(maps.flatten(2).float())[..., None, None]
    elif isinstance(threshold, str) or not 0 < threshold <= 1:
        raise ValueError(f"attention threshold: expected a number in (0, 1] or 'otsu', found {threshold!r}")
    else:
        level = threshold * maps.amax(dim=(-2, -1), keepdim=True)
    return ((maps >= level) & (maps > 0)).float()


def _join(maps: Tensor, positions: Tensor, subtoken: Subtoken) -> Tensor:
    """[B,T,h,w] at positions [B,K,S] (-1: none) -> [B,K,h,w]."""
    count, most = positions.shape[1:]
    index = positions.clamp(min=0).flatten(1)[..., None, None].expand(-1, -1, *maps.shape[2:])
    pieces = maps.gather(1, index).unflatten(1, (count, most))
    present = (positions >= 0)[..., None, None]
    number = present.sum(dim=2)
    if subtoken == "mean":
        return (pieces * present).sum(dim=2) / number.clamp(min=1)
    if subtoken == "max":
        return (pieces * present).amax(dim=2)  # attention is not negative
    if subtoken == "last":
        last = (number - 1).clamp(min=0).unsqueeze(2).expand(-1, -1, 1, *maps.shape[2:])
        return pieces.gather(2, last).squeeze(2)
    raise ValueError(f"subtoken: expected 'mean', 'last' or 'max', found {subtoken!r}")


def _smooth(maps: Tensor) -> Tensor:
    """3x3 smoothing with weights exp(-d^2) in each direction: Attend-and-Excite's kernel, not a sigma of 0.5."""
    if min(maps.shape[-2:]) < 2:
        raise ValueError(f"attention maps of {tuple(maps.shape[-2:])} are too small to smooth; give smooth=False")
    side = exp(-1.0) / (1 + 2 * exp(-1.0))
    # not F.pad: its backward pass is not deterministic on GPUs
    rows = torch.cat([maps[..., 1:2, :], maps, maps[..., -2:-1, :]], dim=-2)
    rows = (1 - 2 * side) * maps + side * (rows[..., :-2, :] + rows[..., 2:, :])
    both = torch.cat([rows[..., 1:2], rows, rows[..., -2:-1]], dim=-1)
    return (1 - 2 * side) * rows + side * (both[..., :-2] + both[..., 2:])


def _otsu(values: Tensor) -> Tensor:
    """Smallest value of the upper side of the best split, [..., n] -> [...]; the only value of a constant map."""
    ascending = values.sort(dim=-1).values
    n = ascending.shape[-1]
    below = torch.arange(1, n, device=values.device) / n
    lower = ascending.cumsum(dim=-1)[..., :-1] / n
    mean = ascending.mean(dim=-1, keepdim=True)
    between = (mean * below - lower).square() / (below * (1 - below))
    split = ascending[..., 1:] > ascending[..., :-1]
    best = between.masked_fill(~split, -1).argmax(dim=-1, keepdim=True) + 1
    return ascending.gather(-1, best).squeeze(-1)


def _check(maps: Tensor, valid: Tensor) -> None:
    if maps.ndim != 4 or maps.shape[:2] != valid.shape:
        raise ValueError(
            f"attention loss: expected maps [B,K,h,w] and valid [B,K], found {tuple(maps.shape)} and "
            f"{tuple(valid.shape)}"
        )
