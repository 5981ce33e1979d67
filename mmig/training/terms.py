"""Loss terms, and the one line that adds them up (MMIG eq 22)."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

TINY = 1e-12
"""In place of a count of nothing: the mean of no samples is 0."""


class LossTerm:
    """One loss term of the samples of a batch.

    How much each sample counts is known from the batch and its draws alone, so that the count of the whole global batch
    is there before the first forward. The values are computed when they are first asked for; terms of one batch may
    share forwards.

    Args:
        counts: weight of each sample in the term's mean, [B]: 0 for a missing field, answer tokens for a token mean.
        compute: gives the value of each sample, [B].
    """

    def __init__(self, counts: Tensor, compute: Callable[[], Tensor]) -> None:
        self.counts, self._compute = counts.float(), compute

    @cached_property
    def values(self) -> Tensor:
        """Value of each sample, float32 [B]."""
        return self._compute().float()


def term_means(sums: Tensor, counts: Tensor) -> Tensor:
    """Mean of each term from its counted sum and its count, [terms] each; 0 where nothing counts."""
    return sums / counts.clamp(min=TINY)


def total_loss(sums: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """L_Total (MMIG eq 22): the weighted sum of the terms' means, a scalar.

    Linear in the sums: parts of a global batch, each divided by the counts of the whole, add up to its total.

    Args:
        sums: of values times counts over samples, [terms].
        counts: of the whole global batch, [terms].
        weights: of each term, [terms].
    """
    return (weights * term_means(sums, counts)).sum()  # (22)


def stacked(terms: dict[str, LossTerm]) -> tuple[Tensor, Tensor]:
    """(values, counts) of a batch's terms, float32 [B,terms] each; computes what was not computed yet, in order."""
    values = torch.stack([term.values for term in terms.values()], dim=1)
    return values, torch.stack([term.counts for term in terms.values()], dim=1)
