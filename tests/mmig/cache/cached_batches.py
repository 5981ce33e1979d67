"""Batches whose features are cached, made in memory: what the stream gives where the shards hold features."""

from collections.abc import Sequence
from typing import Any

import torch

from datamodules.features import Features
from datamodules.schema import Batch, Sample, collate
from datamodules.tinyworld.sample import make_sample
from mmig.training.module import TrainingModule
from mmig.training.rng import Draws


def world_samples(count: int = 4) -> list[Sample]:
    """Samples of the small world with every field."""
    return [make_sample(0, "val", index, photographs=False) for index in range(count)]


def cached_samples(
    method: TrainingModule,
    samples: Sequence[Sample],
    dtype: torch.dtype | None = None,
    facts: dict[str, str] | None = None,
) -> list[Any]:
    """The samples with the features that `method` would cache; images that it then needs no more are not decoded."""
    rows = method.features.compute(collate(samples, size=(64, 64)), sorted(method.features.names), dtype)
    facts = dict(method.features.facts()) | (facts or {})
    return [
        sample
        | {field: b"encoded" for field in method.images_with_features if field in sample}
        | {"features": Features(tensors, facts)}
        for sample, tensors in zip(samples, rows, strict=True)
    ]


def cached_batch(method: TrainingModule, samples: Sequence[Sample], **settings: Any) -> Batch:
    """`cached_samples` as a batch."""
    return collate(cached_samples(method, samples, **settings), size=(64, 64))


def losses(method: TrainingModule, batch: Batch, seed: int = 0) -> dict[str, list[float]]:
    """What counts of each loss term of each sample of a batch, by name."""
    draws = Draws(seed, batch["position"])
    torch.manual_seed(0)
    terms = method.losses(batch, draws)
    return {name: (term.values * (term.counts > 0)).tolist() for name, term in terms.items()}
