"""Keys of samples: what a tar's member names become, and that no key stands for two samples."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.tar_index import MemberIndex, ShardError

_CHUNK = 2**20  # hashes compared at once
_ESCAPED = str.maketrans({character: f"%{ord(character):02X}" for character in "%/.\\"})


def sample_key(name: str) -> str:
    """The key of a sample whose members are called `name` in the tar.

    Keys hold no '/', '.' or backslash, so a name with folders is escaped as in URLs (`a.b/1` -> `a%2Eb%2F1`), which
    keeps different names different. `./1` is `1`, and a name without such characters stays as it is.
    """
    name = name.removeprefix("./")
    return name.translate(_ESCAPED) if "/" in name or "\\" in name else name


def refuse_repeated_keys(tars: Sequence[Path], indices: Sequence[Path]) -> None:
    """Check that no key comes twice in all shards together; eight bytes of memory a sample, for LAION's sake.

    Args:
        tars, indices: each shard and its member index.

    Raises:
        ShardError: naming the key and the two shards.
    """
    hashes = array("q")  # grows in place, where lists and parts would need room for all of it again
    for path in indices:
        hashes.extend(map(hash, _keys(path)))
    ascending = np.frombuffer(hashes, np.int64)
    ascending.sort()
    for start in range(0, len(ascending), _CHUNK):
        part = ascending[start : start + _CHUNK + 1]
        if repeated := set(part[1:][part[1:] == part[:-1]].tolist()):
            _refuse(tars, indices, repeated)


def _refuse(tars: Sequence[Path], indices: Sequence[Path], hashes: set[int]) -> None:
    """Raise for the first key that comes again; return where only different keys share a hash."""
    seen: dict[str, Path] = {}
    for tar, path in zip(tars, indices, strict=True):
        for key in _keys(path):
            if hash(key) not in hashes:
                continue
            if key in seen:
                raise ShardError(
                    f"{tar}: key {key!r} came before, in {seen[key].name}; expected unique keys: rename its members, "
                    "or leave one of the two out"
                )
            seen[key] = tar


def _keys(path: Path) -> list[str]:
    members = MemberIndex(path)
    return [sample_key(members.key(row)) for row in range(len(members))]
