"""Keys of samples: what a tar's member names become, and that no key stands for two samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.tar_index import MemberIndex, ShardError

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
    hashes = [np.array([hash(key) for key in _keys(path)], np.int64) for path in indices]
    ends = np.cumsum([len(of_shard) for of_shard in hashes])
    together = np.concatenate(hashes)
    order = np.argsort(together, kind="stable")
    for place in np.flatnonzero(together[order[1:]] == together[order[:-1]]).tolist():
        numbers = order[place : place + 2].tolist()
        shards = [int(np.searchsorted(ends, number, side="right")) for number in numbers]
        first, second = (_keys(indices[shard])[n - ends[shard]] for n, shard in zip(numbers, shards, strict=True))
        if first == second:
            raise ShardError(
                f"{tars[shards[1]]}: key {first!r} came before, in {tars[shards[0]].name}; expected unique keys: "
                "rename its members, or leave one of the two out"
            )


def _keys(path: Path) -> list[str]:
    members = MemberIndex(path)
    return [sample_key(members.key(row)) for row in range(len(members))]
