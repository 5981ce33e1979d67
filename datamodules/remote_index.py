"""Shards behind a URL, with the interface of a local `ShardIndex`: `open_index(LOCATION)` gives either.

A sample is one ranged request, or a read from a local copy of its shard where `Storage.cache_directory` is given. Each
copy is compared with the shard's SHA-256 once, and each sample with its own checksums at every reading.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, ClassVar

from datamodules.shard_cache import ShardCache
from datamodules.shard_index import INDEX_FILE, ShardIndex, ShardInfo, checked_members, parse_rows, read_rows
from datamodules.storage import RemoteFolder, Storage, StorageError, is_url
from datamodules.tar_index import MemberIndex, ShardError

_DOWNLOADS = 2
"""Downloads of a shard whose SHA-256 is wrong, before its samples are read one by one."""
CACHE_FOLDER = "fetched"
"""Below `Storage.cache_directory`, so that other files there are safe from making room."""
_log = logging.getLogger(__name__)


def open_index(
    location: str | Path, index_location: str | Path | None = None, storage: Storage | None = None
) -> ShardIndex:
    """The index of a folder of shards, local or behind a URL.

    Args:
        location: where the tars are. index_location: where `index.json` and the `.idx` files are, if elsewhere.
        storage: how URLs are read.

    Raises:
        ShardError: no index there, or one that is not ours; local shards that are missing (remote ones are found
            missing when they are read, and count as bad samples).
    """
    if not is_url(location):
        return ShardIndex.load(location, index_location)
    return RemoteIndex.load(str(location), index_location or location, storage or Storage())


@dataclass(frozen=True)
class RemoteIndex(ShardIndex):
    """A folder of shards behind a URL; see `ShardIndex`."""

    tars: RemoteFolder = field(compare=False)
    indices: RemoteFolder | None = field(compare=False)
    cache: ShardCache | None = field(compare=False)
    keeps_copies: ClassVar[bool] = True

    @classmethod
    def load(  # type: ignore[override]
        cls, directory: str, index_directory: str | Path, storage: Storage
    ) -> RemoteIndex:
        """Read `index.json`; see `open_index`."""
        tars = RemoteFolder(directory, storage)
        indices = RemoteFolder(str(index_directory), storage) if is_url(index_directory) else None
        if indices:
            rows = parse_rows(indices.url(INDEX_FILE), indices.read_all(INDEX_FILE))
        else:
            rows = read_rows(Path(index_directory))
        folder = storage.cache_directory and Path(storage.cache_directory) / CACHE_FOLDER
        cache = ShardCache(folder, storage.cache_bytes) if folder else None
        return cls(str(tars), str(indices or index_directory), rows, tars=tars, indices=indices, cache=cache)

    def open_members(self, number: int) -> MemberIndex:
        """As in `ShardIndex`; it is small, and so fetched anew each time, and once more if it came damaged.

        Raises:
            StorageError: it cannot be fetched.
            ShardError: it is damaged, or another than `index.json` means.
        """
        if self.indices is None:
            return super().open_members(number)
        row = self.shards[number]
        for _ in range(_DOWNLOADS - 1):
            try:
                return self._fetch_members(self.indices, row)
            except StorageError:
                raise
            except ShardError as error:
                _log.warning("%s; fetched again", error)
        return self._fetch_members(self.indices, row)

    def _fetch_members(self, indices: RemoteFolder, row: ShardInfo) -> MemberIndex:
        name = Path(row.name).with_suffix(".idx").as_posix()
        return checked_members(MemberIndex(indices.url(name), indices.read_all(name)), row)

    def open_shard(self, number: int, direct: bool = False) -> RemoteShard:
        """As in `ShardIndex`; nothing is fetched yet."""
        return RemoteShard(self.tars, self.shards[number], None if direct else self.cache)

    def discard_copy(self, number: int) -> None:
        """Remove the local copy of a shard, which has turned out to be damaged."""
        if self.cache:
            self.cache.discard(_cached_name(self.shards[number]))


class RemoteShard:
    """One shard behind a URL, by way of a cache if there is one with room for it."""

    def __init__(self, folder: RemoteFolder, row: ShardInfo, cache: ShardCache | None) -> None:
        self._folder, self._row = folder, row
        self._cache = cache if row.bytes else None

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from byte `start` on, fewer if the index says that the shard ends before.

        Raises:
            StorageError: they cannot be fetched.
        """
        length = max(0, min(length, self._row.bytes - start))
        while self._cache:
            try:
                if (data := self._cache.read(_cached_name(self._row), start, length)) is not None:
                    return data
                self._cache.add(_cached_name(self._row), self._row.bytes, self._download)
            except (OSError, _ChecksumError) as reason:  # while the shard is open; later there may be room
                _log.warning("%s; its samples are fetched one by one", reason)
                self._cache = None
        return self._folder.read(self._row.name, start, length)

    def close(self) -> None:
        """Nothing is held."""

    def _download(self, file: BinaryIO) -> None:
        for _ in range(_DOWNLOADS):
            file.seek(0)
            found = self._folder.download(self._row.name, self._row.bytes, file.write)
            if found == self._row.sha256:
                return
        raise _ChecksumError(
            "checksum",
            f"{self._folder.url(self._row.name)}: expected sha256 {self._row.sha256[:16]}..., found {found[:16]}...",
        )


class _ChecksumError(StorageError): ...


def _cached_name(row: ShardInfo) -> str:
    return f"{row.sha256}.tar"  # by content: the same shard under two URLs is one file
