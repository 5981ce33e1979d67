"""The size of a connector's tokens at the start: that of the text states which they stand for.

Otherwise the size that the weights happen to start with decides how strongly each connector is heard, and a comparison
is one of initialisations.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mmig.methods.mmig.token_connectors.connector import TokenConnector


def square_sums(values: Tensor, counts: Tensor) -> Tensor:
    """(sum of the squares, number of entries) of [B,N,D] where bool [B,N] is true, float64 [2]."""
    kept = values.double().masked_fill(~counts.unsqueeze(-1), 0)
    return torch.stack([kept.square().sum(), counts.sum().double() * values.shape[-1]])


@torch.no_grad()
def match_scale(connector: TokenConnector, sums: tuple[Tensor, Tensor], over_ranks: Callable[[Tensor], Tensor]) -> None:
    """Set `scale` so that the root mean square of the tokens is that of the text states, over the batches of all ranks.

    A batch in which nothing counts leaves it as it is.

    Args:
        connector: whose `scale` is still 0, so that its tokens are as the weights make them.
        sums: `square_sums` of the tokens and of the text states.
        over_ranks: sums a tensor over the ranks.
    """
    (made, number), (text, places) = (over_ranks(part) for part in sums)
    ratio = (text / places) / (made / number)
    connector.scale.copy_(torch.where(ratio.isfinite() & (ratio > 0), ratio.sqrt(), connector.scale.double()))
