"""Which shards a folder holds: `index.json`, one row a shard, and what follows from it (length, fingerprint, paths)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from datamodules.tar_index import REMAKE, ShardError

INDEX_FILE = "index.json"
INCOMPLETE = ".incomplete"
_FORMAT = "mmig-shards-1"


@dataclass(frozen=True)
class ShardInfo:
    """One row of `index.json`: file name, number of samples, bytes, SHA-256 as hex.

    Where the index lists a selection of the tar's samples, `of` is how many the tar has; else None, and not written.
    """

    name: str
    count: int
    bytes: int
    sha256: str
    of: int | None = None


@dataclass(frozen=True)
class ShardIndex:
    """A folder of shards, known by its `index.json`; member indices are read when needed.

    Attributes:
        directory: where the tars are. index_directory: where `index.json` and the `.idx` files are.
        shards: the rows of `index.json`, in its order.
    """

    directory: Path
    index_directory: Path
    shards: tuple[ShardInfo, ...]

    @classmethod
    def load(cls, directory: str | Path, index_directory: str | Path | None = None) -> ShardIndex:
        """Read `index.json` and check that every shard and member index is there.

        Raises:
            ShardError: a missing folder, index, shard or member index, or an index that is not ours.
        """
        directory = Path(directory)
        index = cls(directory, Path(index_directory or directory), read_rows(Path(index_directory or directory)))
        for shard in index.shards:
            for path in (index.tar_path(shard.name), index.member_path(shard.name)):
                if not path.is_file():
                    raise ShardError(
                        f"{path}: missing, but {INDEX_FILE} names it; restore it or write the shards again"
                    )
        return index

    def __len__(self) -> int:
        """Number of samples."""
        return sum(shard.count for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Identity of the content: a hash over names, counts, sizes and checksums of all shards."""
        return hashlib.sha256(_to_json(self.shards).encode()).hexdigest()[:32]

    def tar_path(self, name: str) -> Path:
        """Path of the shard `name`."""
        return self.directory / name

    def member_path(self, name: str) -> Path:
        """Path of the member index of the shard `name`."""
        return (self.index_directory / name).with_suffix(".idx")


def replace_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it: it is there whole or not at all."""
    temporary = path.with_name(path.name + INCOMPLETE)
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _to_json(rows: tuple[ShardInfo, ...]) -> str:
    known = ({name: value for name, value in asdict(row).items() if value is not None} for row in rows)
    lines = ",\n".join("  " + json.dumps(row, sort_keys=True) for row in known)
    return f'{{"format": "{_FORMAT}", "shards": [\n{lines}\n]}}\n'


def write_index(directory: Path, rows: tuple[ShardInfo, ...]) -> None:
    """Write `index.json`, which makes the folder complete."""
    replace_file(directory / INDEX_FILE, _to_json(rows).encode())


def read_rows(directory: Path) -> tuple[ShardInfo, ...]:
    """The rows of `index.json`.

    Raises:
        ShardError: the file is missing or is not such an index.
    """
    path = directory / INDEX_FILE
    if not path.is_file():
        raise ShardError(
            f"{path}: missing; write shards there, or index its tars: `python -m datamodules.shards index DIR`"
        )
    try:
        content = json.loads(path.read_text())
        if content["format"] != _FORMAT:
            raise ShardError(
                f"{path}: expected format {_FORMAT!r}, found {content['format']!r}; index the folder again"
            )
        return tuple(ShardInfo(**row) for row in content["shards"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: not a shard index ({error!r}); {REMAKE}") from error
