"""Which samples of a folder of shards a page is about: those that are read, and those of them that it shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby, islice

import numpy as np

from datamodules.order import mix
from datamodules.shard_index import ShardIndex

_CHUNK = 64  # samples that a worker reads before it reports
_READ, _SHOWN = 201, 202  # what a draw is for
Place = tuple[int, int, int, bool]
"""Number of the shard, of the sample in it, of the sample among those read, and whether the page shows it in full."""


def draw(total: int, count: int, *key: int) -> Iterable[int]:
    """`count` of 0..total-1 in rising order, one from each of as many equal parts; all if `count` is 0 or too many."""
    if not 0 < count < total:
        return range(total)
    return (_drawn(total, count, part, *key) for part in range(count))


def _drawn(total: int, count: int, part: int, *key: int) -> int:
    start, end = total * part // count, total * (part + 1) // count
    return start + mix(*key, part) % (end - start)


class Places:
    """The samples that are read, by number: one from each of equal parts of the folder, or all.

    Args:
        index: the shards. most: samples to read at most; 0 for all. shown: how many are shown. seed: of the draws.
    """

    def __init__(self, index: ShardIndex, most: int, shown: int, seed: int) -> None:
        self._ends = np.fromiter(accumulate(shard.count for shard in index.shards), np.int64)
        self._total, self._seed = len(index), seed
        self._count = min(most or self._total, self._total)
        self._shown = set(draw(self._count, shown, seed, _SHOWN)) if shown else set()

    def __len__(self) -> int:
        return self._count

    def of(self, number: int, in_full: bool) -> Place:
        """Where one of them lies."""
        whole = self._count == self._total
        place = number if whole else _drawn(self._total, self._count, number, self._seed, _READ)
        shard = int(np.searchsorted(self._ends, place, side="right"))
        return shard, place - (int(self._ends[shard - 1]) if shard else 0), number, in_full

    def chunks(self) -> Iterator[list[Place]]:
        """All of them in the order of the index, in lists of at most `_CHUNK` of one shard."""
        places = (self.of(number, number in self._shown) for number in range(self._count))
        for _, of_shard in groupby(places, lambda place: place[0]):
            while chunk := list(islice(of_shard, _CHUNK)):
                yield chunk
