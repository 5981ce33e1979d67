"""One random generator a sample, keyed by (seed, key): results depend neither on batching nor on the rank."""

from collections.abc import Sequence

import torch

from mmig.training.rng import generator


def sample_generators(seed: int, keys: Sequence[str]) -> list[torch.Generator]:
    """CPU generators of the samples of a batch; the same as those of `train.py predict`."""
    return [generator(seed, "predict", key) for key in keys]
