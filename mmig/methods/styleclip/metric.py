"""The method's metric: how well pictures were inverted, whatever became of them afterwards."""

import torch

from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import PerSampleMetric, SampleValues, sample_values


class InversionError(PerSampleMetric):
    """Mean squared difference of a picture and what its code draws, values in [-1,1], in [0,4].

    Samples that a `uninverted: skip` leaves out of other metrics count here.
    """

    name = "inversion_error"
    higher_is_better = False

    def values(self, bank: FeatureBank) -> SampleValues:
        """One a sample; skipped where the editor inverts nothing."""
        count = len(bank.batch["key"])
        found = bank.extras.get("inversion_error")
        values = torch.full((count,), torch.nan) if found is None else torch.tensor(found)
        return sample_values(values, {"not_inverted": torch.full((count,), found is None)})
