"""Cross-entropy of the tokens of a text: the one that every language model here is trained with."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Target of a position that does not count."""


class TokenLoss(NamedTuple):
    """Cross-entropy of a batch of texts.

    Attributes:
        sums: -log p of each sample's tokens, float32 [B]; 0 for a sample without any.
        counts: how many these are, float32 [B]. Their ratio over a whole batch is the mean over its tokens.
    """

    sums: Tensor
    counts: Tensor

    @property
    def values(self) -> Tensor:
        """Mean over the tokens of each sample, float32 [B]; times `counts` it is the sum again."""
        return self.sums / self.counts.clamp(min=1)


def token_loss(logits: Tensor, targets: Tensor) -> TokenLoss:
    """-log p of the targets (MMIG eq 8), in float32 whatever the logits are.

    Args:
        logits: [B,T,V], each about the target at its own position: shift one of them first where a model's are about
            the token behind.
        targets: int64 [B,T]; `IGNORED` where nothing counts.
    """
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(targets)
    return TokenLoss(losses.sum(dim=1), (targets != IGNORED).sum(dim=1).float())
