"""Samples of any shard by number, their checksums compared: the only place that reads shards to use them."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from typing import Any

from datamodules.faults import BadSample
from datamodules.shard_index import OpenShard, ShardIndex
from datamodules.storage import StorageError
from datamodules.tar_index import MemberIndex

MAX_SAMPLE_BYTES = 2**30
_DAMAGED = ("truncated", "checksum")


class ShardReader:
    """Reads one sample at a time from anywhere in the shards, keeping the last `keep_open` shards open."""

    def __init__(self, index: ShardIndex, keep_open: int = 64) -> None:
        self._index = index
        self._keep_open = keep_open
        self._open: OrderedDict[int, tuple[OpenShard | OSError, MemberIndex]] = OrderedDict()

    def key(self, shard: int, row: int) -> str:
        """The name in the tar of sample `row` of shard `shard`, folders included.

        Raises:
            BadSample: the shard's member index cannot be fetched from where it is; reasons as in `read`.
            ShardError: the shard's member index is missing, damaged, or another than `index.json` means.
        """
        return self._shard(shard)[1].key(row)

    def read(self, shard: int, row: int) -> dict[str, memoryview]:
        """Name after the key's dot -> bytes, every checksum compared.

        What arrived damaged from a remote storage is fetched once more, past any copy.

        Raises:
            BadSample: the tar cannot be read ("missing", "stalled", "server", "connection") or is too short
                ("truncated"), its bytes have changed ("checksum"), a member comes twice ("repeated"), or they are far
                too many ("bomb").
            ShardError: as in `key`.
        """
        try:
            return self._read(*self._shard(shard), row)
        except BadSample as bad:
            if bad.reason not in _DAMAGED or not self._index.keeps_copies:
                raise
            try:
                found = self._read(self._index.open_shard(shard, direct=True), self._index.open_members(shard), row)
            except StorageError:
                raise bad from None
            self._index.discard_copy(shard)
            _close(self._open.pop(shard))
            return found

    def close(self) -> None:
        """Close every open shard; the reader can be used again."""
        while self._open:
            _close(self._open.popitem()[1])

    def _read(self, file: OpenShard | OSError, index: MemberIndex, row: int) -> dict[str, memoryview]:
        if isinstance(file, OSError):
            raise BadSample("missing", str(file))
        members = index.members(row)
        start = members[0].offset
        length = members[-1].offset + members[-1].size - start
        if length > MAX_SAMPLE_BYTES:
            raise BadSample("bomb", f"{length} bytes in one sample, at most {MAX_SAMPLE_BYTES} are read")
        try:
            data = memoryview(file.read(start, length))
        except OSError as error:
            raise BadSample("missing", str(error)) from error
        except StorageError as error:
            raise BadSample(error.reason, str(error)) from error
        files: dict[str, memoryview] = {}
        for member in members:
            content = data[member.offset - start : member.offset - start + member.size]
            if len(content) != member.size:
                raise BadSample("truncated", f"{member.field}: expected {member.size} bytes, found {len(content)}")
            if zlib.crc32(content) != member.crc32:
                raise BadSample("checksum", f"{member.field}: wrong checksum")
            if member.field in files:
                raise BadSample("repeated", f"{member.field}: comes twice in the tar")
            files[member.field] = content
        return files

    def _shard(self, number: int) -> tuple[OpenShard | OSError, MemberIndex]:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) >= self._keep_open:
                _close(self._open.popitem(last=False)[1])
            self._open[number] = self._open_shard(number)
        return self._open[number]

    def _open_shard(self, number: int) -> tuple[OpenShard | OSError, MemberIndex]:
        try:
            members = self._index.open_members(number)
        except StorageError as error:
            raise BadSample(error.reason, str(error)) from error
        try:
            return self._index.open_shard(number), members
        except OSError as error:  # no error here: each of its samples is a fault
            return error, members

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # open files do not travel to spawned workers

    def __del__(self) -> None:
        self.close()


def _close(shard: tuple[OpenShard | OSError, MemberIndex]) -> None:
    if not isinstance(shard[0], OSError):
        shard[0].close()
