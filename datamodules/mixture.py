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
from itertools import accumulate, pairwise

import numpy as np

from datamodules.order import Turns, mix
from datamodules.portions import BucketOrder, LabelledIndex, MixedOrder, Order, Place, Portion, PortionOrder
from datamodules.shard_index import ShardIndex

_PORTION = 301  # what a draw is for


class Mixture:
    """What a stream draws from.

    Args:
        indices: the sources. labels: for each source the bucket of each sample, see `LabelledIndex`.
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
        labels = labels if labels is not None else [None] * len(indices)
        self.sources = [LabelledIndex(*pair, num_buckets) for pair in zip(indices, labels, strict=True)]
        self.weights = weights
        self.num_buckets = num_buckets

    def __len__(self) -> int:
        """Number of samples, those left out not counted."""
        return sum(int(source.counts.sum()) for source in self.sources)

    def first(self, count: int) -> Mixture:
        """The first samples of each source, `count` in all (or all there are): each source has its share of them."""
        ends = [0, *accumulate(int(source.counts.sum()) for source in self.sources)]
        if count >= ends[-1]:
            return self
        cut = [(2 * count * end + ends[-1]) // (2 * ends[-1]) for end in ends]  # rounded
        labels = [source.first(end - start) for source, (start, end) in zip(self.sources, pairwise(cut), strict=True)]
        return Mixture([source.index for source in self.sources], labels, self.weights, self.num_buckets)

    @property
    def is_endless(self) -> bool:
        """Whether the order is one endless row, in which epochs mean nothing."""
        return self.weights is not None or self.num_buckets > 1

    @property
    def whole_index(self) -> ShardIndex | None:
        """The index, if this is nothing but all samples of one, epoch after epoch."""
        whole = len(self.sources) == 1 and self.sources[0].labels is None and not self.is_endless
        return self.sources[0].index if whole else None

    @property
    def directory(self) -> str:
        """The folders, for messages."""
        return ", ".join(str(source.index.directory) for source in self.sources)

    @property
    def fingerprint(self) -> str:
        """Identity of the samples and all that their order depends on; of a single whole index, that of the index."""
        if self.whole_index is not None:
            return self.whole_index.fingerprint
        indices = [source.index.fingerprint for source in self.sources]
        labels = ["" if s.labels is None else hashlib.sha256(s.labels).hexdigest() for s in self.sources]
        weights = [str(weight) for weight in self.weights or ()]
        return hashlib.sha256(repr((indices, labels, weights, self.num_buckets)).encode()).hexdigest()[:32]

    def shard_name(self, place: Place) -> str:
        """The shard of a sample, for messages and counts; with its folder where there are several."""
        index = self.sources[place.source].index
        name = index.shards[place.shard].name
        return name if len(self.sources) == 1 else f"{index.directory}/{name}"

    def order(self, seed: int, epoch_size: int, global_batch_size: int, block_shards: int, shuffle: bool) -> Order:
        """The order of the stream; see `EpochOrder` for its arguments.

        Args:
            epoch_size: samples an epoch; with weights or buckets only a length, without meaning for the order.
            global_batch_size: samples of one bucket that follow each other.
        """
        everything = dict(enumerate(self.sources))
        if not self.is_endless:
            return PortionOrder(Portion(everything, (0,)), seed, epoch_size, block_shards, shuffle)
        mixed: list[BucketOrder] = []
        counts = sum(source.counts.sum(0) for source in self.sources)
        for bucket, joined in join_small([int(count) for count in counts], global_batch_size):
            rates = {source: rate for source in everything if (rate := self._rate(source, joined))}
            if self.weights is None:
                portions, shares = {0: Portion(everything, joined)}, [Fraction(1)]
            else:
                portions, shares = {s: Portion({s: self.sources[s]}, joined) for s in rates}, list(rates.values())
            orders = [
                PortionOrder(portion, mix(seed, _PORTION, bucket, number), len(portion), block_shards, shuffle)
                for number, portion in portions.items()
            ]
            mixed.append(BucketOrder(bucket, sum(rates.values(), Fraction(0)), orders, Turns(shares)))
        return MixedOrder(mixed, global_batch_size)

    def _rate(self, source: int, buckets: Sequence[int]) -> Fraction:
        """How much of the stream comes from the buckets of a source, relative to others."""
        counts = self.sources[source].counts
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
