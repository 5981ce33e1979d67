"""A set of metrics declared by their names or class paths, all reading one embedding bank a batch."""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from mmig.base.settings import RefusedSettingsError, imported
from mmig.metrics import clip, pixels, texts
from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import NO_PICTURE, PerSampleMetric, SampleValues, without
from mmig.metrics.clip_encoder import ClipEncoder
from mmig.metrics.clip_measures import (
    ClipDirectionalSimilarity,
    ClipImageSimilarity,
    ClipReferenceSimilarity,
    ClipScoreTorchmetrics,
    ClipTextSimilarity,
    ClipWrittenSimilarity,
    DinoSimilarity,
)
from mmig.metrics.judge import Judge
from mmig.metrics.measures import (
    ImageDifference,
    ImageSimilarity,
    Judged,
    JudgedText,
    PeakSignalToNoise,
    PerceptualDistance,
)
from mmig.metrics.sets import FrechetDistance, KernelDistance, SetMetric
from mmig.metrics.texts import TextOverlap
from mmig.metrics.tools import Tools, check_given, lacking

METRICS: dict[str, Callable[[], PerSampleMetric | SetMetric]] = {
    "joint": partial(Judged, "success", "preservation"),
    "success": partial(Judged, "success"),
    "preservation": partial(Judged, "preservation"),
    "subject_fidelity": partial(Judged, "fidelity"),
    "text_alignment": partial(Judged, "alignment"),
    "subject_and_text": partial(Judged, "fidelity", "alignment"),
    "response_accuracy": partial(JudgedText, "response"),
    "caption_accuracy": partial(JudgedText, "caption"),
    "clip_score": partial(ClipTextSimilarity, clip.clip_score),
    "clip_score_torchmetrics": ClipScoreTorchmetrics,
    "clip_text_similarity": ClipTextSimilarity,
    "clip_text_similarity_input": partial(ClipTextSimilarity, text="source_caption", image="source"),
    "clip_text_similarity_target": partial(ClipTextSimilarity, image="target"),
    "clip_response_similarity": partial(ClipTextSimilarity, text="response"),
    "clip_expressive_similarity": partial(ClipTextSimilarity, text="expressive", image="target"),
    "clip_expressive_similarity_input": partial(ClipTextSimilarity, text="expressive", image="source"),
    "clip_written_similarity": partial(ClipWrittenSimilarity, "target"),
    "clip_written_similarity_input": partial(ClipWrittenSimilarity, "source"),
    "clip_directional_similarity": ClipDirectionalSimilarity,
    "clip_image_similarity_input": partial(ClipImageSimilarity, "source"),
    "clip_image_similarity_target": partial(ClipImageSimilarity, "target"),
    "clip_image_similarity_reference": ClipReferenceSimilarity,
    "dino_input": partial(DinoSimilarity, "source"),
    "dino_target": partial(DinoSimilarity, "target"),
    "lpips_input": partial(PerceptualDistance, "source"),
    "lpips_target": partial(PerceptualDistance, "target"),
    "l1_input": partial(ImageDifference, pixels.l1, "source"),
    "l1_target": partial(ImageDifference, pixels.l1, "target"),
    "l2_input": partial(ImageDifference, pixels.l2, "source"),
    "l2_target": partial(ImageDifference, pixels.l2, "target"),
    "psnr_input": partial(PeakSignalToNoise, "source"),
    "psnr_target": partial(PeakSignalToNoise, "target"),
    "ssim_input": partial(ImageSimilarity, pixels.ssim, "source"),
    "ssim_target": partial(ImageSimilarity, pixels.ssim, "target"),
    "response_bleu": partial(TextOverlap, texts.bleu, "response", "response", texts.BLEU_ORDER),
    "response_rouge_l": partial(TextOverlap, texts.rouge_l, "response", "response"),
    "caption_bleu": partial(TextOverlap, texts.bleu, "caption", "target_caption", texts.BLEU_ORDER),
    "caption_rouge_l": partial(TextOverlap, texts.rouge_l, "caption", "target_caption"),
    "fid": FrechetDistance,
    "kid": KernelDistance,
}
"""The metrics that are known by name: on the command line, in files and in the logger."""


class UnknownMetricError(ValueError):
    """A metric was asked for by a name or class path that no metric has."""


def build_metric(name: str) -> PerSampleMetric | SetMetric:
    """The metric of a name in `METRICS`, or of the class path of a metric that takes no arguments.

    Raises:
        UnknownMetricError: naming the unknown one, the nearest known one and all that exist; or what is wrong with a
            class.
    """
    if name in METRICS:
        metric = METRICS[name]()
        metric.name = name
        return metric
    if "." not in name:
        near = difflib.get_close_matches(name, METRICS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(METRICS)
        raise UnknownMetricError(f"metrics: {name!r} is unknown{hint}; known metrics: {known}; or a class path")
    return _open_metric(name)


def _open_metric(class_path: str) -> PerSampleMetric | SetMetric:
    try:
        found = imported(class_path)
    except RefusedSettingsError as error:
        raise UnknownMetricError(f"metrics: {error}") from error
    if not (isinstance(found, type) and issubclass(found, PerSampleMetric | SetMetric)):
        kind = "PerSampleMetric of mmig/metrics/base.py, or SetMetric of sets.py"
        raise UnknownMetricError(f"metrics: {class_path}: expected a subclass of {kind}, found {found!r}")
    own = getattr(found, "name", None)
    if not isinstance(own, str) or not re.fullmatch(r"\w+", own):
        raise UnknownMetricError(f"metrics: {class_path}.name: expected letters, digits and _, found {own!r}")
    if own in METRICS:
        raise UnknownMetricError(f"metrics: {class_path}.name: {own!r} is a metric of mmig already; give another name")
    return found()


def build_metrics(names: Iterable[str]) -> dict[str, PerSampleMetric | SetMetric]:
    """Metrics by their own names, from names and class paths; one that is asked for again is there once.

    Raises:
        UnknownMetricError: as of `build_metric`, or two classes with one name.
    """
    built: dict[str, PerSampleMetric | SetMetric] = {}
    for name in dict.fromkeys(names):
        metric = build_metric(name)
        if metric.name in built:
            classes = f"{class_path(built[metric.name])} and {class_path(metric)}"
            raise UnknownMetricError(f"metrics: {classes} are both called {metric.name!r}; give one another name")
        built[metric.name] = metric
    return built


def class_path(metric: PerSampleMetric | SetMetric) -> str:
    """Where a metric is defined."""
    return f"{type(metric).__module__}.{type(metric).__qualname__}"


def computable(given: Collection[str], names: Iterable[str] = METRICS) -> list[str]:
    """Those of the metrics that can be computed with what there is (names from `tools.NEEDS`), as they are named."""
    built = {name: build_metric(name) for name in dict.fromkeys(names)}
    return [name for name, metric in built.items() if not lacking(metric, given)]


class MetricSuite(nn.Module):
    """Metrics by name, with the encoders and the judge that they share.

    Args:
        names: names from `METRICS`, or class paths.
        encoder: needed by metrics with `needs_clip`.
        judge: needed by metrics with `needs_judge`.
        further: what else there is of `Tools`, by name.

    Raises:
        UnknownMetricError: as of `build_metrics`.
        MetricInputError: for a metric whose encoder or judge was not given.
    """

    def __init__(
        self, names: Iterable[str], encoder: ClipEncoder | None = None, judge: Judge | None = None, **further: Any
    ) -> None:
        super().__init__()
        built = build_metrics(names)
        self.tools = Tools(encoder, judge, **further)
        for metric in built.values():
            check_given(metric, self.tools.given)
        self.sets = {name: metric for name, metric in built.items() if isinstance(metric, SetMetric)}
        self.metrics = nn.ModuleDict({name: metric for name, metric in built.items() if name not in self.sets})

    @property
    def names(self) -> list[str]:
        """Names in the order in which they were declared, those of whole sets behind the others."""
        return [*self.metrics, *self.sets]

    @property
    def floors(self) -> dict[str, float]:
        """The least value of the mean of each metric."""
        return {name: metric.floor for name, metric in self.metrics.items()}

    def describe(self) -> dict[str, dict[str, Any]]:
        """Of each metric whether higher is better, and the class of one that mmig does not know by name."""
        return {
            name: {"higher_is_better": metric.higher_is_better}
            | ({} if name in METRICS else {"class_path": class_path(metric)})
            for name, metric in (*self.metrics.items(), *self.sets.items())
        }

    def bank(
        self,
        batch: Mapping[str, Any],
        edited: Tensor,
        written: Mapping[str, Sequence[str]] | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> FeatureBank:
        """The embedding bank of a batch, its edited images (both in [-1,1]), the editor's texts by kind and extras."""
        return FeatureBank(batch, edited, self.tools, written, extras)

    def update(self, bank: FeatureBank) -> dict[str, SampleValues]:
        """Count a batch in every metric and return its per-sample values; of samples without an image those alone that
        say nothing about it.
        """
        values = {name: metric.values(bank) for name, metric in self.metrics.items()}
        for name, metric in self.metrics.items():
            if metric.needs_picture:
                values[name] = without(values[name], bank.missing, NO_PICTURE)
            metric.update(values[name].values.to(metric.device))
        return values

    def features(self, bank: FeatureBank) -> dict[str, Tensor]:
        """What the metrics of sets compare, of the images "edited" and "target", float32 [B,D]; {} without such."""
        return {name: bank.set_features(name) for name in ("edited", "target")} if self.sets else {}

    def compute(self) -> dict[str, float]:
        """Mean of every metric of samples over all ranks; NaN where nothing was counted."""
        return {name: float(metric.compute()) for name, metric in self.metrics.items()}

    def reset(self) -> None:
        """Forget everything counted."""
        for metric in self.metrics.values():
            metric.reset()
