"""The size of what a connector makes at the start: that of the text states which its tokens stand for.

Otherwise the size that the weights happen to start with decides how strongly each connector is heard, and a comparison
is one of initialisations.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Scaled(Protocol):
    """What multiplies its output with a number, float32 []."""

    scale: Tensor


def square_sums(values: Tensor, counts: Tensor) -> Tensor:
    """(sum of the squares, number of entries) of [B,N,D] where bool [B,N] is true, float64 [2]."""
    kept = values.double().masked_fill(~counts.unsqueeze(-1), 0)
    return torch.stack([kept.square().sum(), counts.sum().double() * values.shape[-1]])


@torch.no_grad()
def match_scale(
    connector: Scaled, sums: tuple[Tensor, Tensor], over_ranks: Callable[[Tensor], Tensor], part: float = 1.0
) -> None:
    """Set `scale` so that the root mean square of what a connector makes is that of the text states, or a part of it,
    over the batches of all ranks.

    A batch in which nothing counts leaves it as it is.

    Args:
        connector: whose `scale` is still 0.
        sums: `square_sums` of what it makes before `scale`, and of the text states.
        over_ranks: sums a tensor over the ranks.
        part: of the text states' root mean square.
    """
    (made, number), (text, places) = (over_ranks(part) for part in sums)
    ratio = (text / places) / (made / number)
    counted = ratio.isfinite() & (ratio > 0)
    connector.scale.copy_(torch.where(counted, part * ratio.sqrt(), connector.scale.double()))
