"""The method's metric."""

from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import PerSampleMetric, SampleValues, sample_values


class ColourDistance(PerSampleMetric):
    """Distance of the mean colours of edited and target images, in [0, 2 sqrt(3)]."""

    name = "colour_distance"
    lower_is_better = True

    def values(self, bank: FeatureBank) -> SampleValues:
        """One a sample; those without a target are skipped."""
        edited, target = (bank.image(name).mean(dim=(2, 3)) for name in ("edited", "target"))
        return sample_values(2 * (edited - target).norm(dim=1), {"no_target": ~bank.has_image("target")})
