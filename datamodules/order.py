"""The order of samples as a function of numbers alone: no state, no files, the same on any machine and any numpy.

`mix` is the SplitMix64 finaliser chained over its arguments; sorting its values gives the permutations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

_MASK = 2**64 - 1
STEP = 0x9E3779B97F4A7C15
"""What SplitMix64 adds to its state between two values."""
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
Numbers = TypeVar("Numbers", int, np.ndarray)
_SHARDS, _SAMPLES = 1, 2  # what a permutation is for


def spread(value: Numbers) -> Numbers:
    """The SplitMix64 finaliser: an integer in [0, 2**64), or a uint64 array, each number spread evenly."""
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def mix(*numbers: int) -> int:
    """Integers -> one evenly spread integer in [0, 2**64)."""
    value = 0
    for number in numbers:
        value = spread(((value ^ (number & _MASK)) + STEP) & _MASK)
    return value


def permutation(count: int, *key: int) -> np.ndarray:
    """A permutation of 0..count-1, int64, that depends on `key` alone."""
    value = (np.arange(count, dtype=np.uint64) ^ np.uint64(mix(*key))) + np.uint64(STEP)
    return np.argsort(spread(value), kind="stable")


def rank_part(start: int, end: int, rank: int, world_size: int) -> list[int]:
    """This rank's part of the slice start..end of an order: parts one after another, equally long.

    If the slice does not divide, the last parts repeat samples of the slice from its beginning.
    """
    size = -(-(end - start) // world_size)
    return [start + place % (end - start) for place in range(rank * size, (rank + 1) * size)]


def rank_parts(starts: range, end: int, rank: int, world_size: int) -> Iterator[list[int]]:
    """`rank_part` of each global batch: one begins at each of `starts`, the last one stops at `end`."""
    for start in starts:
        yield rank_part(start, min(start + starts.step, end), rank, world_size)


class EpochOrder:
    """Where the n-th sample of one epoch lies.

    Shards are shuffled, and samples inside blocks of `block_shards` shards, so that reading touches few files at a
    time and any place can be found without walking to it. With `shuffle=False` it is the order of the index.
    """

    def __init__(self, counts: Sequence[int], seed: int, epoch: int, block_shards: int, shuffle: bool) -> None:
        self._key = (seed, epoch)
        self._shuffle = shuffle
        self._counts = np.asarray(counts, np.int64)
        self._shards = permutation(len(counts), seed, epoch, _SHARDS) if shuffle else np.arange(len(counts))
        self._blocks = [self._shards[start : start + block_shards] for start in range(0, len(counts), block_shards)]
        self._ends = np.cumsum([self._counts[block].sum() for block in self._blocks])
        self._block = lru_cache(maxsize=2)(self._make_block)

    def locate(self, place: int) -> tuple[int, int]:
        """Place in the epoch -> (number of the shard in the index, number of the sample in the shard)."""
        block = int(np.searchsorted(self._ends, place, side="right"))
        start = int(self._ends[block - 1]) if block else 0
        samples, ends = self._block(block)
        sample = int(samples[place - start])
        shard = int(np.searchsorted(ends, sample, side="right"))
        return int(self._blocks[block][shard]), sample - (int(ends[shard - 1]) if shard else 0)

    def _make_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        ends = np.cumsum(self._counts[self._blocks[block]])
        samples = permutation(int(ends[-1]), *self._key, _SAMPLES, block) if self._shuffle else np.arange(int(ends[-1]))
        return samples, ends
