"""On which side of the split something stands, by a hash of what it is rather than by its number."""

from __future__ import annotations

import hashlib


def hashed_split(name: str) -> str:
    """The split of a name: train, val or test for 80, 10 and 10 percent of all names."""
    place = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") % 10
    return "train" if place < 8 else "val" if place == 8 else "test"
