"""On which side of the split something stands: by a hash of what it is, not by its number.

The same in every process and with every version of Python.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def tenth_of(name: str) -> int:
    """Which tenth of all names this one is in, 0 to 9."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") % 10


def hashed_split(name: str) -> str:
    """The split of a name: train, val or test for 80, 10 and 10 percent of all names."""
    tenth = tenth_of(name)
    return "train" if tenth < 8 else "val" if tenth == 8 else "test"


def check_split(split: str, splits: Sequence[str]) -> None:
    """Raise ValueError where a split is none of those that there are."""
    if split not in splits:
        raise ValueError(f"split {split!r}: expected one of {', '.join(splits)}")
