"""The common form of every metric: sum, sum of squares and count of per-sample values, and skips by reason."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from mmig.metrics.bank import FeatureBank

NOT_FINITE = "not_finite"
"""Reason for a value that is NaN or infinite although nothing was missing: a broken image, never hidden in a mean."""


@dataclass
class SampleValues:
    """One value a sample and why some have none.

    Attributes:
        values: float64 [B] on the CPU, NaN where skipped.
        reasons: one entry a sample, None where the value counts.
    """

    values: Tensor
    reasons: list[str | None]


def sample_values(values: Tensor, skipped: dict[str, Tensor]) -> SampleValues:
    """Values [B] with samples skipped by reason (bool [B] each, the first reason wins)."""
    values = values.detach().double().cpu()
    reasons: list[str | None] = [None] * len(values)
    for reason, mask in {**skipped, NOT_FINITE: ~values.isfinite()}.items():
        for row in mask.cpu().nonzero().flatten().tolist():
            reasons[row] = reasons[row] or reason
    counted = torch.tensor([reason is None for reason in reasons], dtype=torch.bool)
    return SampleValues(values.masked_fill(~counted, float("nan")), reasons)


class PerSampleMetric(Metric, ABC):
    """Mean of one value a sample, independent of batch size and of the number of ranks.

    States (all reduced by sum): `total`, `squares`, `count`, and `skips`, one entry a reason of `skip_reasons`.
    """

    full_state_update = False
    needs_clip = False
    needs_judge = False
    needs_reader = False
    """Whether the judge must read texts too."""

    def __init__(self, skip_reasons: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.skip_reasons = (*skip_reasons, NOT_FINITE)
        for name in ("total", "squares", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("skips", torch.zeros(len(self.skip_reasons), dtype=torch.float64), dist_reduce_fx="sum")

    @abstractmethod
    def values(self, bank: FeatureBank) -> SampleValues:
        """One value a sample of the batch."""

    def update(self, bank: FeatureBank, values: SampleValues | None = None) -> None:
        """Count a batch; `values` saves computing them again."""
        values = self.values(bank) if values is None else values
        kept = values.values[~values.values.isnan()].to(self.total.device)
        self.total += kept.sum()
        self.squares += kept.square().sum()
        self.count += kept.numel()
        for row, reason in enumerate(self.skip_reasons):
            self.skips[row] += values.reasons.count(reason)

    def compute(self) -> Tensor:
        """Mean over all counted samples, float64 scalar; NaN if there are none."""
        return self.total / self.count if self.count > 0 else torch.full_like(self.total, float("nan"))
