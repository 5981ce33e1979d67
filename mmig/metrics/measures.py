"""The metrics of pixels and judges: which images each one compares, and when a sample is skipped.

The formulas are in pixels.py; clip_measures.py has those that compare embeddings. Edited-versus-input and
edited-versus-target variants are different metrics with different names: published tables use one letter for both, and
mixing them is meaningless.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mmig.metrics import pixels
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


class PeakSignalToNoise(PerSampleMetric):
    """PSNR of the edited image and the `reference` ("source" or "target") in decibels, at least 0.

    A copy that is equal to the bit has an infinite one, which no mean survives: it is skipped and counted.
    """

    def __init__(self, reference: str) -> None:
        super().__init__()
        self.reference = reference

    def values(self, bank: FeatureBank) -> SampleValues:
        """See `mmig.metrics.pixels.psnr`."""
        values = pixels.psnr(bank.image("edited"), bank.image(self.reference))
        skipped = {f"no_{self.reference}": ~bank.has_image(self.reference), "identical_images": values.isposinf()}
        return sample_values(values, skipped)


class PerceptualDistance(PerSampleMetric):
    """LPIPS of the edited image and the `reference` ("source" or "target"), at least 0 and 0 where they agree."""

    higher_is_better = False
    needs_lpips = True

    def __init__(self, reference: str) -> None:
        super().__init__()
        self.reference = reference

    def values(self, bank: FeatureBank) -> SampleValues:
        """See `mmig.metrics.lpips.Lpips.distance`."""
        values = bank.perceptual_distance("edited", self.reference)
        return sample_values(values, {f"no_{self.reference}": ~bank.has_image(self.reference)})


class Judged(PerSampleMetric):
    """A score of the judge, "success" (did the edit happen) or "preservation" (did the rest stay), or several at once.

    Of what was drawn from a text with pictures of subjects "fidelity" to these and "alignment" with the text.

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
        found = [{} if verdict is None else verdict for verdict in verdicts]
        values = [math.prod(float(verdict.get(score, math.nan)) for score in self.scores) for verdict in found]
        absent = torch.tensor([verdict is None for verdict in verdicts], dtype=torch.bool)
        other = torch.tensor([not {*self.scores} <= verdict.keys() for verdict in found], dtype=torch.bool)
        broken = ~bank.image("edited").isfinite().flatten(1).all(1).cpu()
        scores = torch.tensor(values, dtype=torch.float64).masked_fill(broken, float("nan"))
        return sample_values(scores, {"no_metadata": absent, "not_judged": other & ~absent})


class Told(PerSampleMetric):
    """A number that was told of each edit under the metric's name (`FeatureBank.extras`); smaller is better."""

    higher_is_better = False
    needs_picture = False

    def values(self, bank: FeatureBank) -> SampleValues:
        """One a sample; skipped where nothing was told."""
        count, found = len(bank.batch["key"]), bank.extras.get(self.name)
        values = torch.full((count,), torch.nan) if found is None else torch.tensor(found)
        return sample_values(values, {"not_told": torch.full((count,), found is None)})


class EditSeconds(Told):
    """Seconds that the editor took of a sample, its share of the batch's.

    They are not the same twice: asked for by its class path, and in no evaluation that does not.
    """

    name = "edit_seconds"


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
