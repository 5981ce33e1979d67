"""Metrics of a whole set of edited images against the set of targets: no sample has a value of its own.

The states are torchmetrics'. They are filled at the end from the features of all ranks by key, and not batch by batch:
what a sampler repeats to fill up its ranks would count twice.
"""

import warnings
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from mmig.metrics.base import Declared

_SUBSET_SIZE, _NUM_SUBSETS = 1000, 100


class SetMetric(Declared, ABC):
    """A distance between two sets of features. One of your own is a subclass without arguments that sets `name`."""

    needs_features = True
    min_samples = 2
    """Fewer in a set have no distance."""

    @abstractmethod
    def distance(self, targets: Tensor, edited: Tensor) -> float:
        """Of features float64 [N,D] and [N,D]; the order of the rows does not matter."""


class _Given(nn.Module):
    """The network in torchmetrics' metrics where the features are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class FrechetDistance(SetMetric):
    """FID (Heusel et al. 2017) of any features: the Frechet distance of two Gaussians, at least 0.

    Too large for small sets, by more the smaller they are: only figures of equally many samples and of the same
    features can be compared. Below 10,000 samples KID is the better one.
    """

    higher_is_better = False
    floor = 0.0

    def distance(self, targets: Tensor, edited: Tensor) -> float:
        """See `torchmetrics.image.fid`."""
        metric = FrechetInceptionDistance(_Given(targets.shape[1]), sync_on_compute=False)
        metric.update(targets.double(), real=True)
        metric.update(edited.double(), real=False)
        return max(float(metric.compute()), self.floor)


class KernelDistance(SetMetric):
    """KID (Binkowski et al. 2018) of any features: the unbiased squared MMD with a cubic kernel; may be negative.

    Of more than 1000 samples it is the mean over 100 subsets of so many, the same in each evaluation.
    """

    higher_is_better = False

    def distance(self, targets: Tensor, edited: Tensor) -> float:
        """See `torchmetrics.image.kid`."""
        size = min(_SUBSET_SIZE, len(targets), len(edited))
        whole = size == len(targets) == len(edited)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that all features are kept, which is the purpose here
            metric = KernelInceptionDistance(
                _Given(targets.shape[1]), 1 if whole else _NUM_SUBSETS, size, sync_on_compute=False
            )
        metric.update(targets.double(), real=True)
        metric.update(edited.double(), real=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            mean, _ = metric.compute()
        return float(mean)
