"""What frozen parts make of a batch: read from the batch where it was cached, else computed."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.schema import Batch, cached_feature
from mmig.cache.facts import StaleFeaturesError, check

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedFeature:
    """What frozen parts make of a sample and no draw of training changes, so that it may be computed once.

    Attributes:
        name: under which shards and batches hold it ("latents.target"); no two features of a method share one.
        compute: batch -> the rows of each of its B samples, [n,...] each, where n may differ from sample to sample.
        depends: names of the facts (see `FrozenFeatures`) with which it changes.
        sees_images: whether it changes where the images are flipped; then both directions are stored.
    """

    name: str
    compute: Callable[[Batch], Sequence[Tensor]]
    depends: tuple[str, ...]
    sees_images: bool = False


class FrozenFeatures:
    """The features of a method, wherever they come from. Those of a published pipeline: `mmig.cache.latent`.

    Args:
        facts: says what features depend on: fingerprints, templates, sizes, by name. Asked once, when the first cached
            features come and all weights are loaded, and compared with the facts that these bring along.

    Attributes:
        facts: as above; may be replaced before the first features come.
    """

    def __init__(self, facts: Callable[[], Mapping[str, str]] = dict) -> None:
        self.facts = facts
        self._declared: dict[str, CachedFeature] = {}
        self._known: Mapping[str, str] | None = None
        self._lacking: set[str] = set()

    def declare(self, *features: CachedFeature) -> None:
        """Cache these features, and read them where a batch has them; those of parts that train are not among them."""
        self._declared |= {feature.name: feature for feature in features}

    @property
    def names(self) -> frozenset[str]:
        """Names of the declared features."""
        return frozenset(self._declared)

    @property
    def names_seeing_images(self) -> frozenset[str]:
        """Names of those that change where the images are flipped."""
        return frozenset(name for name, feature in self._declared.items() if feature.sees_images)

    @torch.no_grad()
    def get(self, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """A declared feature of a batch: values [B,n,...], zeros behind what is shorter, and rows of each, int64 [B].

        Raises:
            StaleFeaturesError: it was cached, but by other parts than those of this run.
        """
        if (stored := self.stored(name, batch)) is not None:
            return stored
        rows = list(self._declared[name].compute(batch))
        return pad_sequence(rows, batch_first=True), torch.tensor([len(own) for own in rows], device=rows[0].device)

    def stored(self, name: str, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """The same where it was cached; None where it was not, or is not declared.

        Raises:
            StaleFeaturesError: as in `get`.
        """
        facts: Any = batch.get("feature_facts")
        if facts is None or name not in self._declared:
            return None
        if self._known is None:
            self._known = self.facts()
        stored = cached_feature(batch, name)
        if stored is not None:
            check(name, self._declared[name].depends, facts, self._known)
        elif name not in self._lacking:
            self._lacking.add(name)
            logger.warning("the cached features lack %s, which is computed anew in every step", name)
        return stored

    @torch.no_grad()
    def compute(self, batch: Batch, names: Sequence[str], dtype: torch.dtype | None = None) -> list[dict[str, Tensor]]:
        """Features of each sample as they are written to the cache, on the CPU.

        Args:
            batch: without features of its own.
            names: of declared features.
            dtype: to store; None keeps the one they are computed in.
        """
        of_samples: list[dict[str, Tensor]] = [{} for _ in batch["key"]]
        for name in names:
            for sample, values in zip(of_samples, self._declared[name].compute(batch), strict=True):
                sample[name] = values.to("cpu", dtype or values.dtype, copy=True)
        return of_samples


def image(batch: Batch, field: str) -> Tensor:
    """An image field of a batch, for what computes features of it.

    Raises:
        StaleFeaturesError: the samples keep it encoded, because all features of it should have been cached.
    """
    if field not in batch:
        raise StaleFeaturesError(
            f"the cached features lack one of the {field} images, which are not decoded beside them; write the cache "
            "anew with `python -m mmig.run.cache`, or train without data.init_args.features"
        )
    return batch[field]  # type: ignore[literal-required]


def up_to(values: Tensor, mask: Tensor | None) -> list[Tensor]:
    """The rows of each sample that count: values [B,n,...] where the mask, bool [B,n], begins with True."""
    if mask is None:
        return list(values)
    return [rows[: int(count)] for rows, count in zip(values, mask.sum(dim=1), strict=True)]


def mask_of(rows: Tensor, length: int) -> Tensor:
    """The way back: True at the first rows of each sample, bool [B,length]."""
    return torch.arange(length, device=rows.device) < rows[:, None]
