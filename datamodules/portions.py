"""Portions of indices, such as the samples of one bucket, and the orders that run over them; see `mixture`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np

from datamodules.order import EpochOrder, Turns
from datamodules.shard_index import ShardIndex

LEFT_OUT = 255
"""Label of a sample that was not selected; the label of any other is the number of its bucket."""


class Place(NamedTuple):
    """Where a sample lies: number of the source, of the shard in its index, of the sample in the shard."""

    source: int
    shard: int
    row: int


class Order(Protocol):
    """Where each sample of an endless stream lies."""

    def locate(self, position: int, draw: int | None = None) -> Place:
        """The sample at a position; with `draw`, another one that can stand in for it, chosen by that number."""

    def bucket(self, position: int) -> int:
        """Number of the bucket of the sample at a position; one for all samples of a global batch."""


class LabelledIndex:
    """An index and the bucket of each of its samples.

    Args:
        labels: uint8, in the order of the index: the bucket of each sample, or `LEFT_OUT`; None: all in bucket 0.
        num_buckets: how many there are; the columns of `counts`, int64 [shards, buckets].
    """

    def __init__(self, index: ShardIndex, labels: np.ndarray | None, num_buckets: int) -> None:
        self.index, self.labels = index, labels
        counts = [shard.count for shard in index.shards]
        self._edges = [0, *accumulate(counts)]
        if labels is None:
            self.counts = np.zeros((len(counts), num_buckets), np.int64)
            self.counts[:, 0] = counts
            return
        self._plain = np.asarray(labels)  # slices of a mapped array cost more
        found = [np.bincount(self._of(shard), minlength=num_buckets)[:num_buckets] for shard in range(len(counts))]
        self.counts = np.array(found, np.int64).reshape(-1, num_buckets)

    def rows(self, shard: int, buckets: np.ndarray) -> np.ndarray | None:
        """Numbers of a shard's samples that are in one of the buckets; None for all."""
        return None if self.labels is None else np.flatnonzero(np.isin(self._of(shard), buckets))

    def first(self, count: int) -> np.ndarray:
        """Labels that leave out all but the first `count` of the samples that are not left out."""
        labels = np.zeros(len(self.index), np.uint8) if self.labels is None else np.array(self.labels)
        labels[np.flatnonzero(labels != LEFT_OUT)[count:]] = LEFT_OUT
        return labels

    def _of(self, shard: int) -> np.ndarray:
        return self._plain[self._edges[shard] : self._edges[shard + 1]]


class Portion:
    """Samples that one shuffle runs over: those of some buckets, in the shards of some sources one after another."""

    def __init__(self, sources: Mapping[int, LabelledIndex], buckets: Sequence[int]) -> None:
        """Sources by their number."""
        self.counts = np.concatenate([source.counts[:, list(buckets)].sum(1) for source in sources.values()])
        self._numbers, self._sources = list(sources), list(sources.values())
        self._firsts = [0, *accumulate(len(source.counts) for source in self._sources)]
        self._buckets = np.array(buckets, np.uint8)
        self._rows = lru_cache(maxsize=64)(lambda source, shard: self._sources[source].rows(shard, self._buckets))

    def __len__(self) -> int:
        return int(self.counts.sum())

    def place(self, shard: int, sample: int) -> Place:
        """Number of the shard in this portion, number of the sample among those that are ours in it -> its place."""
        source = bisect_right(self._firsts, shard) - 1
        own = shard - self._firsts[source]
        rows = self._rows(source, own)
        return Place(self._numbers[source], own, sample if rows is None else int(rows[sample]))


class PortionOrder:
    """A portion epoch after epoch, each time in another order; see `EpochOrder`."""

    def __init__(self, portion: Portion, seed: int, epoch_size: int, block_shards: int, shuffle: bool) -> None:
        self._portion, self._epoch_size = portion, epoch_size
        self._epoch = lru_cache(maxsize=2)(lambda epoch: EpochOrder(portion.counts, seed, epoch, block_shards, shuffle))

    def locate(self, position: int, draw: int | None = None) -> Place:
        """As in `Order`."""
        epoch, place = divmod(position, self._epoch_size)
        return self._portion.place(*self._epoch(epoch).locate(place if draw is None else draw % self._epoch_size))

    def bucket(self, position: int) -> int:
        """As in `Order`; there is one."""
        return 0


class BucketOrder(NamedTuple):
    """Parts that take turns within the batches of one bucket; `share` is how much of the stream it gets."""

    bucket: int
    share: Fraction
    orders: list[PortionOrder]
    turns: Turns


class MixedOrder:
    """Buckets take turns batch by batch, and within the batches of each its portions sample by sample."""

    def __init__(self, buckets: Sequence[BucketOrder], batch_size: int) -> None:
        self._buckets, self._batch_size = buckets, batch_size
        self._turns = Turns([bucket.share for bucket in buckets])

    def locate(self, position: int, draw: int | None = None) -> Place:
        """As in `Order`."""
        batch, slot = divmod(position, self._batch_size)
        number, before = self._turns.take(batch)
        chosen = self._buckets[number]
        portion, ordinal = chosen.turns.take(before * self._batch_size + slot)
        return chosen.orders[portion].locate(ordinal, draw)

    def bucket(self, position: int) -> int:
        """As in `Order`."""
        return self._buckets[self._turns.take(position // self._batch_size)[0]].bucket
