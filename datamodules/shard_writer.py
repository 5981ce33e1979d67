"""One shard, written under a temporary name; and the folder around it, held for one writer."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datamodules.shard_index import INCOMPLETE, ShardInfo
from datamodules.tar_index import Member, ShardError, pack

LOCK_FILE = "writing.lock"
"""There while a process writes; one that a killed process left behind is harmless."""


def write_shard(directory: Path, name: str, samples: Iterable[tuple[str, dict[str, bytes]]]) -> ShardInfo:
    """Write one tar and its member index under their names with `INCOMPLETE` behind; renaming them is the caller's.

    Args:
        name: of the tar. samples: key and encoded files (see `encode`) of each sample; keys must be unique.

    Raises:
        ShardError: a key too long for a tar.
    """
    members: list[Member] = []
    digest, offset = hashlib.sha256(), 0
    with (directory / f"{name}{INCOMPLETE}").open("wb") as file:

        def put(data: bytes) -> None:
            nonlocal offset
            file.write(data)
            digest.update(data)
            offset += len(data)

        for key, files in samples:
            for field, data in files.items():
                put(_tar_header(f"{key}.{field}", len(data)))
                members.append(Member(key, field, offset, len(data), zlib.crc32(data)))
                put(data + bytes(-len(data) % tarfile.BLOCKSIZE))
        put(bytes(2 * tarfile.BLOCKSIZE))
        put(bytes(-offset % tarfile.RECORDSIZE))
        file.flush()
        os.fsync(file.fileno())
    packed, count = pack(members)
    (directory / name).with_suffix(f".idx{INCOMPLETE}").write_bytes(packed)
    return ShardInfo(name, count, offset, digest.hexdigest())


def _tar_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    try:
        return info.tobuf(tarfile.USTAR_FORMAT)
    except ValueError as error:
        raise ShardError(f"key of member {name!r}: expected a name of at most 100 bytes ({error})") from error


class HeldError(ShardError):
    """Another process writes in this folder."""


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a folder for one writer; leave no temporary file behind, whatever happened before or happens now.

    Raises:
        HeldError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK_FILE
    with path.open("a") as lock:  # open for writing, without which NFS gives no exclusive lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(lock.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):  # held, or removed by its holder while we came
            mine = False
        if not mine:
            raise HeldError(f"{directory}: another process is writing shards here; wait for it")
        _remove_incomplete(directory)
        try:
            yield
        finally:
            _remove_incomplete(directory)
            path.unlink(missing_ok=True)


def wait_for_writer(directory: Path) -> None:
    """Return once no process holds a folder: it has written its shards, or was killed."""
    with suppress(FileNotFoundError), (directory / LOCK_FILE).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def _remove_incomplete(directory: Path) -> None:
    for path in directory.glob(f"*{INCOMPLETE}"):
        path.unlink()
