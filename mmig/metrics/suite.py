"""A set of metrics declared by their names, all reading one embedding bank a batch."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from mmig.metrics import clip, pixels
from mmig.metrics.bank import FeatureBank, MetricInputError
from mmig.metrics.base import PerSampleMetric, SampleValues
from mmig.metrics.clip_encoder import ClipEncoder
from mmig.metrics.judge import Judge, can_read
from mmig.metrics.measures import (
    ClipDirectionalSimilarity,
    ClipImageSimilarity,
    ClipTextSimilarity,
    ImageDifference,
    Judged,
    JudgedText,
)

METRICS: dict[str, Callable[[], PerSampleMetric]] = {
    "success": partial(Judged, "success"),
    "preservation": partial(Judged, "preservation"),
    "response_accuracy": partial(JudgedText, "response"),
    "caption_accuracy": partial(JudgedText, "caption"),
    "clip_score": partial(ClipTextSimilarity, clip.clip_score),
    "clip_text_similarity": ClipTextSimilarity,
    "clip_response_similarity": partial(ClipTextSimilarity, text="response"),
    "clip_directional_similarity": ClipDirectionalSimilarity,
    "clip_image_similarity_input": partial(ClipImageSimilarity, "source"),
    "clip_image_similarity_target": partial(ClipImageSimilarity, "target"),
    "l1_input": partial(ImageDifference, pixels.l1, "source"),
    "l1_target": partial(ImageDifference, pixels.l1, "target"),
    "l2_target": partial(ImageDifference, pixels.l2, "target"),
    "ssim_input": partial(ImageDifference, pixels.ssim, "source"),
    "ssim_target": partial(ImageDifference, pixels.ssim, "target"),
}
"""Every metric by the one name that it has on the command line, in files and in the logger."""

LOWER_IS_BETTER = frozenset({"l1_input", "l1_target", "l2_target"})


class UnknownMetricError(ValueError):
    """A metric was asked for by a name that no metric has."""


def check_names(names: Iterable[str]) -> list[str]:
    """The names, without repetitions.

    Raises:
        UnknownMetricError: naming the unknown one, the nearest known one and all that exist.
    """
    unique = list(dict.fromkeys(names))
    for name in unique:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UnknownMetricError(f"metrics: {name!r} is unknown{hint}; known metrics: {', '.join(METRICS)}")
    return unique


def computable(has_encoder: bool, judge: Judge | None) -> list[str]:
    """Names of all metrics that can be computed with what there is."""
    built = {name: make() for name, make in METRICS.items()}
    return [
        name
        for name, metric in built.items()
        if (has_encoder or not metric.needs_clip)
        and (judge is not None or not metric.needs_judge)
        and (can_read(judge) or not metric.needs_reader)
    ]


class MetricSuite(nn.Module):
    """Metrics by name, with the CLIP encoder and the judge that they share.

    Args:
        names: names from `METRICS`.
        encoder: needed if a name starts with "clip_".
        judge: needed for "success" and "preservation".

    Raises:
        UnknownMetricError: for an unknown name.
        MetricInputError: for a metric whose encoder or judge was not given.
    """

    def __init__(self, names: Iterable[str], encoder: ClipEncoder | None = None, judge: Judge | None = None) -> None:
        super().__init__()
        built = {name: METRICS[name]() for name in check_names(names)}
        for name, metric in built.items():
            if metric.needs_clip and encoder is None:
                raise MetricInputError(f"metric {name!r} needs a CLIP encoder; give --clip NAME [WEIGHTS]")
            if metric.needs_judge and judge is None:
                raise MetricInputError(f"metric {name!r} needs a judge; give --judge CLASS_PATH")
            if metric.needs_reader and not can_read(judge):
                raise MetricInputError(f"metric {name!r} needs a judge that reads texts, with a method `text`")
        self.metrics = nn.ModuleDict(built)
        self.encoder = encoder
        self.judge = judge

    @property
    def names(self) -> list[str]:
        """Names in the order in which they were declared."""
        return list(self.metrics)

    def bank(
        self, batch: Mapping[str, Any], edited: Tensor, written: Mapping[str, Sequence[str]] | None = None
    ) -> FeatureBank:
        """The embedding bank of a batch, its edited images (both in [-1,1]) and the editor's texts by kind."""
        return FeatureBank(batch, edited, self.encoder, self.judge, written)

    def update(self, bank: FeatureBank) -> dict[str, SampleValues]:
        """Count a batch in every metric and return its per-sample values."""
        values = {name: metric.values(bank) for name, metric in self.metrics.items()}
        for name, metric in self.metrics.items():
            metric.update(values[name].values.to(metric.device))
        return values

    def compute(self) -> dict[str, float]:
        """Mean of every metric over all ranks; NaN where nothing was counted."""
        return {name: float(metric.compute()) for name, metric in self.metrics.items()}

    def reset(self) -> None:
        """Forget everything counted."""
        for metric in self.metrics.values():
            metric.reset()
