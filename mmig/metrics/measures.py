"""The metrics themselves: which images and texts each one compares, and when a sample is skipped.

The formulas are in clip.py and pixels.py. Edited-versus-input and edited-versus-target variants are different metrics
with different names: published tables use one letter for both, and mixing them is meaningless.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mmig.metrics import clip
from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import PerSampleMetric, SampleValues, sample_values


class ImageSimilarity(PerSampleMetric):
    """A pixel formula of the edited image and the `reference` ("source" or "target"), larger the more they agree."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor], reference: str) -> None:
        super().__init__()
        self.formula, self.reference = formula, reference

    def values(self, bank: FeatureBank) -> SampleValues:
        """See `mmig.metrics.pixels`."""
        values = self.formula(bank.image("edited"), bank.image(self.reference))
        return sample_values(values, {f"no_{self.reference}": ~bank.has_image(self.reference)})


class ImageDifference(ImageSimilarity):
    """The same with a formula that is 0 where they agree."""

    higher_is_better = False


class ClipImageSimilarity(PerSampleMetric):
    """cos(f_y, f_x) or cos(f_y, f_g): the edited image and the `reference` ("source" or "target")."""

    needs_clip = True

    def __init__(self, reference: str) -> None:
        super().__init__()
        self.reference = reference

    def values(self, bank: FeatureBank) -> SampleValues:
        """See `mmig.metrics.clip.cosine`."""
        values = clip.cosine(bank.image_embeddings("edited"), bank.image_embeddings(self.reference))
        return sample_values(values, {f"no_{self.reference}": ~bank.has_image(self.reference)})


class ClipTextSimilarity(PerSampleMetric):
    """A formula (raw cosine, or CLIP score) of the edited image and one `text` field of the batch."""

    needs_clip = True

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor] = clip.cosine, text: str = "target_caption") -> None:
        super().__init__()
        self.formula, self.text = formula, text

    def values(self, bank: FeatureBank) -> SampleValues:
        """See `mmig.metrics.clip.cosine` and `clip_score`."""
        values = self.formula(bank.image_embeddings("edited"), bank.text_embeddings(self.text))
        return sample_values(values, {f"no_{self.text}": ~bank.has_text(self.text)})


class ClipDirectionalSimilarity(PerSampleMetric):
    """cos(f_y - f_x, t_out - t_in); a zero direction of text or image has no value and is counted as skipped."""

    needs_clip = True

    def values(self, bank: FeatureBank) -> SampleValues:
        """See `mmig.metrics.clip.directional_similarity`."""
        source, edited = bank.image_embeddings("source"), bank.image_embeddings("edited")
        before, after = bank.text_embeddings("source_caption"), bank.text_embeddings("target_caption")
        skipped = {
            "no_source": ~bank.has_image("source"),
            "no_caption": ~(bank.has_text("source_caption") & bank.has_text("target_caption")),
            "zero_text_direction": clip.is_zero_direction(before, after),
            "zero_image_direction": clip.is_zero_direction(source, edited),
        }
        return sample_values(clip.directional_similarity(source, edited, before, after), skipped)


class Judged(PerSampleMetric):
    """A score of the judge, "success" (did the edit happen) or "preservation" (did the rest stay), or several at once.

    Args:
        scores: names of the judge's scores; of several the product, which is 1 where all of them are.
    """

    needs_judge = True

    def __init__(self, *scores: str) -> None:
        super().__init__()
        self.scores = scores

    def values(self, bank: FeatureBank) -> SampleValues:
        """Scores of `FeatureBank.verdicts`, as numbers (true is 1)."""
        verdicts = bank.verdicts()
        values = [
            float("nan") if verdict is None else math.prod(float(verdict[score]) for score in self.scores)
            for verdict in verdicts
        ]
        absent = torch.tensor([verdict is None for verdict in verdicts], dtype=torch.bool)
        broken = ~bank.image("edited").isfinite().flatten(1).all(1).cpu()
        scores = torch.tensor(values, dtype=torch.float64).masked_fill(broken, float("nan"))
        return sample_values(scores, {"no_metadata": absent})


class JudgedText(PerSampleMetric):
    """Share of the texts that the editor wrote which describe the goal image, by the judge's reading.

    Args:
        kind: "response" (z_d) or "caption" (d_new).
    """

    needs_judge = needs_reader = True

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def values(self, bank: FeatureBank) -> SampleValues:
        """1 for a right text, 0 for a wrong one."""
        right = bank.right_texts(self.kind)
        values = torch.tensor([float("nan") if value is None else float(value) for value in right])
        return sample_values(values, {"no_text_or_metadata": values.isnan()})
