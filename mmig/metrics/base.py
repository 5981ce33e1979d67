"""The common form of every metric: per-sample values with the reasons why some have none, and their mean."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.aggregation import MeanMetric

from mmig.metrics.bank import FeatureBank
from mmig.metrics.tools import NEEDS

NOT_FINITE = "not_finite"
"""Reason for a value that is NaN or infinite although nothing was missing: a broken image, never hidden in a mean."""
NO_PICTURE = "no_picture"
"""Reason why no metric has a value of a sample that the editor has no image of."""


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


def without(values: SampleValues, left_out: Tensor, reason: str) -> SampleValues:
    """The values but of the samples bool [B], which have none for this reason."""
    marked = zip(left_out.tolist(), values.reasons, strict=True)
    reasons = [reason if out else own for out, own in marked]
    return SampleValues(values.values.masked_fill(left_out, float("nan")), reasons)


class Declared:
    """What every metric says about itself.

    Attributes:
        name: what it is called in files and in the logger: letters, digits and _; of the metrics in `suite.METRICS`
            their name there.
        higher_is_better: False where a smaller value is the better one.
        floor: the least value of a mean; a mean below it is this. Values of samples are not cut.
        needs_clip, needs_judge, needs_dino, needs_lpips, needs_features: what is read of the bank beside the batch, see
            `tools.NEEDS`.
        needs_reader: whether the judge must read texts too.
        needs_picture: False where a sample counts too that the editor has no image of.
    """

    name: str
    higher_is_better = True
    floor = -math.inf
    needs_clip = False
    needs_judge = False
    needs_reader = False
    needs_dino = False
    needs_lpips = False
    needs_features = False
    needs_picture = True

    @property
    def needs(self) -> tuple[str, ...]:
        """Names from `tools.NEEDS`."""
        return tuple(name for name in NEEDS if getattr(self, f"needs_{name}"))


class PerSampleMetric(Declared, MeanMetric, ABC):
    """Mean of one value a sample, independent of batch size and of the number of ranks; `update` takes the values.

    torchmetrics keeps their sum and their count, both in double precision; a skipped sample's NaN is left out of both.
    One of your own is a subclass without arguments that sets `name`; it is asked for by its class path.
    """

    def __init__(self) -> None:
        super().__init__(nan_strategy="ignore")
        self.set_dtype(torch.float64)

    @abstractmethod
    def values(self, bank: FeatureBank) -> SampleValues:
        """One value a sample of the batch."""

    def compute(self) -> Tensor:
        """Their mean over all ranks, not below `floor`; NaN where nothing was counted."""
        return super().compute().clamp_min(self.floor)
