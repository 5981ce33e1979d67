"""The metric of editors that tune: how long one subject takes."""

import torch

from experiments.subject_tuning.tuning import SECONDS
from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import PerSampleMetric, SampleValues, sample_values


class PreparationSeconds(PerSampleMetric):
    """Wall-clock seconds of preparation a subject, before its first picture is drawn."""

    name = "preparation_seconds"
    higher_is_better = False

    def values(self, bank: FeatureBank) -> SampleValues:
        """What the editor gave in its extras; editors that say nothing are skipped."""
        seconds = bank.extras.get(SECONDS)
        absent = torch.full((len(bank),), seconds is None)
        return sample_values(torch.zeros(len(bank)) if seconds is None else seconds, {"not_timed": absent})
