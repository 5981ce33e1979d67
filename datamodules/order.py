"""The order of samples as a function of numbers alone: no state, no files, the same on any machine and any numpy.

`mix` is the SplitMix64 finaliser chained over its arguments; sorting its values gives the permutations.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm
from typing import TypeVar

import numpy as np

MOST_TURNS = 65536
"""Turns after which a pattern of turns repeats at the latest."""

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


def rank_part(start: int, end: int, rank: int, world_size: int, fill_up: bool = True) -> list[int]:
    """This rank's part of the slice start..end of an order: parts one after another, equally long.

    If the slice does not divide, the last parts repeat samples of the slice from its beginning; without `fill_up` some
    parts are one shorter than that of rank 0 instead.
    """
    if not fill_up:
        edges = [start - (start - end) * number // world_size for number in (rank, rank + 1)]
        return list(range(*edges))
    size = -(-(end - start) // world_size)
    return [start + place % (end - start) for place in range(rank * size, (rank + 1) * size)]


def rank_parts(starts: range, end: int, rank: int, world_size: int, fill_up: bool = True) -> Iterator[list[int]]:
    """`rank_part` of each global batch: one begins at each of `starts`, the last one stops at `end`."""
    for start in starts:
        yield rank_part(start, min(start + starts.step, end), rank, world_size, fill_up)


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
        firsts = np.arange(0, len(counts), block_shards)
        self._ends = np.add.reduceat(self._counts[self._shards], firsts).cumsum().tolist() if len(counts) else []
        self._block = lru_cache(maxsize=2)(self._make_block)

    def locate(self, place: int) -> tuple[int, int]:
        """Place in the epoch -> (number of the shard in the index, number of the sample in the shard)."""
        block = bisect_right(self._ends, place)
        samples, ends = self._block(block)
        sample = int(samples[place - (self._ends[block - 1] if block else 0)])
        shard = bisect_right(ends, sample)
        return int(self._blocks[block][shard]), sample - (ends[shard - 1] if shard else 0)

    def _make_block(self, block: int) -> tuple[np.ndarray, list[int]]:
        ends = self._counts[self._blocks[block]].cumsum().tolist()
        samples = permutation(ends[-1], *self._key, _SAMPLES, block) if self._shuffle else np.arange(ends[-1])
        return samples, ends


class Turns:
    """Who is next, endlessly: each taker as often as its share says, as evenly spread as whole turns allow.

    Nobody's turns are drawn: of any stretch each one has its share, but for a turn or two. Any turn is found without
    walking to it.
    """

    def __init__(self, shares: Sequence[Fraction]) -> None:
        """Shares are relative to each other and positive; they are kept exactly, or to 1 in `MOST_TURNS`."""
        self._counts = _whole(shares)
        times = np.concatenate([(np.arange(count) + 0.5) / count for count in self._counts])
        order = np.argsort(times, kind="stable")
        self._takers = np.repeat(np.arange(len(shares)), self._counts)[order]
        self._before = np.concatenate([np.arange(count) for count in self._counts])[order]

    def take(self, turn: int) -> tuple[int, int]:
        """Number of a turn -> (whose it is, how many turns that taker had before)."""
        cycle, place = divmod(turn, len(self._takers))
        taker = int(self._takers[place])
        return taker, cycle * self._counts[taker] + int(self._before[place])


def _whole(shares: Sequence[Fraction]) -> list[int]:
    """The smallest whole numbers in the same ratio; if they add up to more than `MOST_TURNS`, near that ratio."""
    unit = lcm(*(share.denominator for share in shares))
    counts = [int(share * unit) for share in shares]
    if sum(counts) // gcd(*counts) > MOST_TURNS:
        total = sum(counts)
        counts = [max(1, (count * MOST_TURNS + total // 2) // total) for count in counts]
    divisor = gcd(*counts)
    return [count // divisor for count in counts]
