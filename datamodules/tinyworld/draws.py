"""Random numbers of the small world: a stream of hashes of (seed, split, index).

Only integers are drawn and only Python integers are used, so sample i is the same on every machine, in every process
and with every version of numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from datamodules.order import STEP, spread

Item = TypeVar("Item")
MASK = (1 << 64) - 1


class Draws:
    """Pseudo-random integers for one sample (splitmix64, keyed by a BLAKE2 hash of the sample's name)."""

    def __init__(self, seed: int, split: str, index: int) -> None:
        name = f"tinyworld/{seed}/{split}/{index}".encode()
        self._state = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")

    def _next(self) -> int:
        self._state = (self._state + STEP) & MASK
        return spread(self._state)

    def below(self, high: int) -> int:
        """Integer in [0, high)."""
        return (self._next() * high) >> 64

    def between(self, low: int, high: int) -> int:
        """Integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 cases."""
        return self.below(100) < percent

    def choice(self, items: Sequence[Item]) -> Item:
        """One of `items`, each equally often."""
        return items[self.below(len(items))]

    def pick(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` different places of `items`, in random order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(count)]
