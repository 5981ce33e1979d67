"""Which shards a folder holds: `index.json`, one row a shard, and what follows from it (length, fingerprint, paths)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from datamodules.tar_index import REMAKE, MemberIndex, ShardError

INDEX_FILE = "index.json"
INCOMPLETE = ".incomplete"
_FORMAT = "mmig-shards-1"
_NAME = re.compile(r"[^/\\\0\n:][^\\\0\n:]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


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


class OpenShard(Protocol):
    """One shard open for reading."""

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from byte `start` on, fewer if the shard ends before."""

    def close(self) -> None:
        """Let go of it."""


class LocalShard:
    """A shard on a local disk; see `remote_index` for others."""

    def __init__(self, path: Path, expected_bytes: int) -> None:
        """Open it; another size than expected is no error: each sample that suffered is a fault.

        Raises:
            OSError: it cannot be opened.
        """
        self._descriptor = os.open(path, os.O_RDONLY)
        if (size := os.fstat(self._descriptor).st_size) != expected_bytes:
            _log.warning("%s: expected %d bytes, found %d", path, expected_bytes, size)

    def read(self, start: int, length: int) -> bytes:
        """As in `OpenShard`."""
        return os.pread(self._descriptor, length, start)

    def close(self) -> None:
        """As in `OpenShard`."""
        os.close(self._descriptor)


@dataclass(frozen=True)
class ShardIndex:
    """A folder of shards, known by its `index.json`; member indices are read when needed.

    Attributes:
        directory: where the tars are; a URL for those of `remote_index`. index_directory: where `index.json` and the
            `.idx` files are.
        shards: the rows of `index.json`, in its order.
    """

    directory: Path | str
    index_directory: Path | str
    shards: tuple[ShardInfo, ...]
    keeps_copies: ClassVar[bool] = False  # whether what is read may be a copy, worth fetching anew

    @classmethod
    def load(cls, directory: str | Path, index_directory: str | Path | None = None) -> ShardIndex:
        """Read `index.json` and check that every shard and member index is there.

        Raises:
            ShardError: a missing folder, index, shard or member index, or an index that is not ours.
        """
        directory, index_directory = Path(directory), Path(index_directory or directory)
        index = cls(directory, index_directory, read_rows(index_directory))
        names = [shard.name for shard in index.shards]
        found = _absent(directory, names) or _absent(index_directory, [_member_name(name) for name in names])
        if found is not None:
            raise ShardError(f"{found}: missing, but {INDEX_FILE} names it; restore it or write the shards again")
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
        return Path(self.directory) / name

    def member_path(self, name: str) -> Path:
        """Path of the member index of the shard `name`."""
        return Path(self.index_directory) / _member_name(name)

    def open_members(self, number: int) -> MemberIndex:
        """The member index of shard `number`.

        Raises:
            ShardError: it is missing, damaged, or another than `index.json` means.
        """
        return checked_members(MemberIndex(self.member_path(self.shards[number].name)), self.shards[number])

    def open_shard(self, number: int, direct: bool = False) -> OpenShard:
        """Shard `number`; with `direct`, past any copy that is kept of it.

        Raises:
            OSError: it cannot be opened.
        """
        row = self.shards[number]
        return LocalShard(self.tar_path(row.name), row.bytes)

    def discard_copy(self, number: int) -> None:
        """Forget what is kept of shard `number`, if anything is."""


def _member_name(name: str) -> str:
    return f"{os.path.splitext(name)[0]}.idx"


def _absent(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of these files that is not in the folder; asks for whole listings, as there may be 40,000."""
    listings: dict[str, set[str]] = {}
    for name in names:
        parent, _, last = name.rpartition("/")
        if parent not in listings:
            listings[parent] = _files_in(folder / parent)
        if last not in listings[parent]:
            return folder / name
    return None


def _files_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def checked_members(members: MemberIndex, row: ShardInfo) -> MemberIndex:
    """The member index of a shard, if it lists as many samples as `index.json` counts.

    Raises:
        ShardError: it does not.
    """
    if len(members) != row.count:
        raise ShardError(
            f"{members.path}: lists {len(members)} samples where {INDEX_FILE} counts {row.count}; one is stale: "
            f"{REMAKE}"
        )
    return members


def replace_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it: it is there whole or not at all."""
    temporary = path.with_name(path.name + INCOMPLETE)
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _to_json(rows: tuple[ShardInfo, ...]) -> str:
    known = ({name: value for name, value in vars(row).items() if value is not None} for row in rows)
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
    return parse_rows(path, path.read_bytes())


def parse_rows(path: Path | str, content: bytes) -> tuple[ShardInfo, ...]:
    """The rows in the bytes of an `index.json`; `path` says where they are from.

    Raises:
        ShardError: this is not such an index.
    """
    try:
        found = json.loads(content)
        if found["format"] != _FORMAT:
            raise ShardError(f"{path}: expected format {_FORMAT!r}, found {found['format']!r}; index the folder again")
        rows = tuple(ShardInfo(**row) for row in found["shards"])
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: not a shard index ({error!r}); {REMAKE}") from error
    for row in rows:
        if not _is_sane(row):
            expected = "a name of a file in the folder, numbers and a sha256"
            raise ShardError(f"{path}: expected {expected}, found {row}; {REMAKE}")
    return rows


def _is_sane(row: ShardInfo) -> bool:
    """Whether a row can be believed as far as files are opened and written by it: an index may come from anywhere."""
    numbers = (row.count, row.bytes, 0 if row.of is None else row.of)
    return (
        isinstance(row.name, str)
        and _NAME.fullmatch(row.name) is not None
        and ".." not in row.name.split("/")
        and all(type(number) is int and number >= 0 for number in numbers)
        and isinstance(row.sha256, str)
        and _SHA256.fullmatch(row.sha256) is not None
    )
