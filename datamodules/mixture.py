"""Samples of several folders of shards as one: whole or a part of each, weighted, and sorted into buckets by shape.

Without weights and buckets an epoch holds every sample once, shuffled over all folders. With them the order is one
endless row. Each global batch is of one bucket, and within it the sources take turns by their weights; each source goes
through its samples of that bucket in epochs of its own, so that a large one is seen whole before any of it comes again.
All of it is a function of numbers, so that the state of a stream stays the number of samples consumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np

from datamodules.order import EpochOrder, Turns, mix
from datamodules.shard_index import ShardIndex

LEFT_OUT = 255
"""Label of a sample that was not selected; the label of any other is the number of its bucket."""
_PART = 301  # what a draw is for


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


class Mixture:
    """What a stream draws from.

    Args:
        indices: the sources. labels: for each source a uint8 array with the bucket of each sample in the order of the
            index, or `LEFT_OUT`; None for a source of which every sample is in bucket 0.
        weights: shares of the training samples, relative to each other and positive; None: each sample equally often.
        num_buckets: number of buckets, those next to each other alike in shape.
    """

    def __init__(
        self,
        indices: Sequence[ShardIndex],
        labels: Sequence[np.ndarray | None] | None = None,
        weights: Sequence[Fraction] | None = None,
        num_buckets: int = 1,
    ) -> None:
        self.indices = tuple(indices)
        self.labels = tuple(labels) if labels is not None else (None,) * len(self.indices)
        self.weights = tuple(weights) if weights is not None else None
        self.num_buckets = num_buckets
        self.counts = [_count(*source, num_buckets) for source in zip(self.indices, self.labels, strict=True)]
        """Samples of each source, int64 [shards, buckets]."""

    def __len__(self) -> int:
        """Number of samples, those left out not counted."""
        return sum(int(counts.sum()) for counts in self.counts)

    @property
    def is_endless(self) -> bool:
        """Whether the order is one endless row, in which epochs mean nothing."""
        return self.weights is not None or self.num_buckets > 1

    @property
    def directory(self) -> str:
        """The folders, for messages."""
        return ", ".join(str(index.directory) for index in self.indices)

    @property
    def fingerprint(self) -> str:
        """Identity of the samples and all that their order depends on; of a single whole index, that of the index."""
        if len(self.indices) == 1 and self.labels[0] is None:
            return self.indices[0].fingerprint
        labels = ["" if label is None else hashlib.sha256(label).hexdigest() for label in self.labels]
        weights = [str(weight) for weight in self.weights or ()]
        parts = repr(([index.fingerprint for index in self.indices], labels, weights, self.num_buckets))
        return hashlib.sha256(parts.encode()).hexdigest()[:32]

    def shard_name(self, place: Place) -> str:
        """The shard of a sample, for messages and counts; with its folder where there are several."""
        index = self.indices[place.source]
        name = index.shards[place.shard].name
        return name if len(self.indices) == 1 else f"{index.directory}/{name}"

    def order(self, seed: int, epoch_size: int, global_batch_size: int, block_shards: int, shuffle: bool) -> Order:
        """The order of the stream; see `EpochOrder` for its arguments.

        Args:
            epoch_size: samples an epoch; with weights or buckets only a length, without meaning for the order.
            global_batch_size: samples of one bucket that follow each other.
        """
        everything = range(len(self.indices))
        if not self.is_endless:
            return _PartOrder(_Part(self, everything, (0,)), seed, epoch_size, block_shards, shuffle)
        groups = join_small([int(count) for count in sum(counts.sum(0) for counts in self.counts)], global_batch_size)
        mixed: list[_Mixed] = []
        for leader, buckets in groups:
            rates = {source: rate for source in everything if (rate := self._rate(source, buckets))}
            if self.weights is None:
                parts, shares = [_Part(self, everything, buckets)], [Fraction(1)]
            else:
                parts = [_Part(self, (source,), buckets) for source in rates]
                shares = list(rates.values())
            orders = [
                _PartOrder(part, mix(seed, _PART, leader, part.sources[0]), len(part), block_shards, shuffle)
                for part in parts
            ]
            mixed.append(_Mixed(leader, sum(rates.values(), Fraction(0)), orders, Turns(shares)))
        return _MixedOrder(mixed, global_batch_size)

    def _rate(self, source: int, buckets: Sequence[int]) -> Fraction:
        """How much of the stream comes from the buckets of a source, relative to others."""
        counts = self.counts[source]
        count = int(counts[:, list(buckets)].sum())
        return Fraction(count) if self.weights is None else self.weights[source] * Fraction(count, int(counts.sum()))


def join_small(counts: Sequence[int], least: int) -> list[tuple[int, tuple[int, ...]]]:
    """Numbers of samples by bucket -> groups of neighbouring buckets with at least `least` samples each, if possible.

    A batch from a smaller bucket would hold a sample twice. Returns for each group the bucket with the most samples,
    whose shape all of the group get, and the buckets in it; empty ones are in none.
    """
    groups = [[bucket] for bucket, count in enumerate(counts) if count]

    def size(group: list[int]) -> int:
        return sum(counts[bucket] for bucket in group)

    while len(groups) > 1 and size(smallest := min(groups, key=size)) < least:
        place = groups.index(smallest)
        beside = [number for number in (place - 1, place + 1) if 0 <= number < len(groups)]
        other = max(beside, key=lambda number: size(groups[number]))
        groups[other] = sorted(groups[other] + smallest)
        del groups[place]
    return [(max(group, key=lambda bucket: counts[bucket]), tuple(group)) for group in groups]


def _count(index: ShardIndex, labels: np.ndarray | None, num_buckets: int) -> np.ndarray:
    counts = [shard.count for shard in index.shards]
    if labels is None:
        return np.array(counts, np.int64)[:, None]
    edges = [0, *accumulate(counts)]
    labels = np.asarray(labels)  # slices of a mapped file cost more
    found = [
        np.bincount(labels[edges[n] : edges[n + 1]], minlength=num_buckets)[:num_buckets] for n in range(len(counts))
    ]
    return np.array(found, np.int64)


class _Part:
    """Samples that one shuffle runs over: those of some buckets, in the shards of some sources one after another."""

    def __init__(self, mixture: Mixture, sources: Sequence[int], buckets: Sequence[int]) -> None:
        self.sources = sources
        self.counts = np.concatenate([mixture.counts[source][:, list(buckets)].sum(1) for source in sources])
        self._firsts = [0, *accumulate(len(mixture.indices[source].shards) for source in sources)]
        self._buckets = np.array(buckets, np.uint8)
        self._labels = [mixture.labels[source] for source in sources]
        self._edges = [
            None
            if mixture.labels[source] is None
            else [0, *accumulate(row.count for row in mixture.indices[source].shards)]
            for source in sources
        ]
        self._rows = lru_cache(maxsize=64)(self._find_rows)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def place(self, shard: int, sample: int) -> Place:
        """Number of the shard in this part, number of the sample among those that are ours in it -> its place."""
        source = int(np.searchsorted(self._firsts, shard, side="right")) - 1
        own = shard - self._firsts[source]
        rows = self._rows(source, own)
        return Place(self.sources[source], own, sample if rows is None else int(rows[sample]))

    def _find_rows(self, source: int, shard: int) -> np.ndarray | None:
        labels, edges = self._labels[source], self._edges[source]
        if labels is None or edges is None:
            return None
        return np.flatnonzero(np.isin(np.asarray(labels[edges[shard] : edges[shard + 1]]), self._buckets))


class _PartOrder:
    """A part epoch after epoch, each time in another order."""

    def __init__(self, part: _Part, seed: int, epoch_size: int, block_shards: int, shuffle: bool) -> None:
        self._part, self._epoch_size = part, epoch_size
        self._epoch = lru_cache(maxsize=2)(lambda epoch: EpochOrder(part.counts, seed, epoch, block_shards, shuffle))

    def locate(self, position: int, draw: int | None = None) -> Place:
        epoch, place = divmod(position, self._epoch_size)
        return self._part.place(*self._epoch(epoch).locate(place if draw is None else draw % self._epoch_size))

    def bucket(self, position: int) -> int:
        return 0


class _Mixed(NamedTuple):
    """Parts that take turns within the batches of one group of buckets."""

    leader: int
    share: Fraction
    orders: list[_PartOrder]
    turns: Turns


class _MixedOrder:
    """Groups of buckets take turns batch by batch, and parts sample by sample within the batches of each."""

    def __init__(self, groups: Sequence[_Mixed], batch_size: int) -> None:
        self._groups, self._batch_size = groups, batch_size
        self._turns = Turns([group.share for group in groups])

    def locate(self, position: int, draw: int | None = None) -> Place:
        batch, slot = divmod(position, self._batch_size)
        number, before = self._turns.take(batch)
        group = self._groups[number]
        part, ordinal = group.turns.take(before * self._batch_size + slot)
        return group.orders[part].locate(ordinal, draw)

    def bucket(self, position: int) -> int:
        return self._groups[self._turns.take(position // self._batch_size)[0]].leader
