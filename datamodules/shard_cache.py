"""A bounded folder of whole files that several processes share: each is fetched once, the least recently used one goes.

Safe against concurrent processes and kills, on a local disk: a file has its name only when it is whole; who fetches it
holds a lock that ends with its process; its full size is reserved on the disk before the first byte is fetched, so that
the limit and a full disk are known at once, and what a killed process left behind is the first to go.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from datamodules.shard_index import INCOMPLETE

_LOCK = ".lock"
_ROOM = "room"
"""Name of the lock under which files are removed and room is reserved."""


class CacheFullError(OSError):
    """No room for a file, even with every other file gone; one line says for what, and why."""


class ShardCache:
    """Files by name in a folder.

    Args:
        directory: created if missing; holds nothing else. limit: bytes that the files may take together.

    Attributes:
        counts: what this process did: "fetched", "evicted", "abandoned" (left by a killed process), "full".
    """

    def __init__(self, directory: str | Path, limit: int) -> None:
        self.directory, self.limit = Path(directory), limit
        self.counts: Counter[str] = Counter()

    def read(self, name: str, start: int, length: int) -> bytes | None:
        """Bytes of a file and a note that it was used; None if it is not there."""
        path = self.directory / name
        try:
            with path.open("rb", buffering=0) as file:  # not kept open: a removed file would keep its room
                data = os.pread(file.fileno(), length, start)
                os.utime(file.fileno())
                return data
        except FileNotFoundError:
            return None

    def add(self, name: str, size: int, fill: Callable[[BinaryIO], object]) -> None:
        """Have a file of `size` bytes be there: `fill` writes it, unless another process did so while this one waited.

        Raises:
            CacheFullError: no room for it.
            Exception: whatever `fill` raises; then the file is not there.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / name
        with self._locked(name):
            if path.exists():
                return
            incomplete = self.directory / f"{name}{INCOMPLETE}"
            with self._reserve(incomplete, size) as file:
                try:
                    fill(file)
                    file.flush()
                    with self._locked(_ROOM):  # so that who counts the room meets each file under one name
                        os.replace(incomplete, path)
                except BaseException:
                    incomplete.unlink(missing_ok=True)
                    raise
            self.counts["fetched"] += 1

    def discard(self, name: str) -> None:
        """Remove a file that turned out to be damaged."""
        (self.directory / name).unlink(missing_ok=True)

    def _reserve(self, path: Path, size: int) -> BinaryIO:
        """A new file whose `size` bytes the disk has set aside."""
        with self._locked(_ROOM):
            self._remove_abandoned(path)
            others = self._oldest_first(path)
            if size > self.limit:
                raise self._full(path, size, f"cache_bytes is {self.limit}")
            while sum(others.values()) + size > self.limit:
                if not self._evict(others):
                    raise self._full(path, size, f"cache_bytes is {self.limit}, and the rest is being fetched")
            while True:
                file = path.open("wb")
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                    return file
                except OSError as error:
                    file.close()
                    path.unlink()
                    if not self._evict(others):
                        raise self._full(path, size, error.strerror or str(error)) from error

    def _full(self, path: Path, size: int, why: str) -> CacheFullError:
        self.counts["full"] += 1
        return CacheFullError(f"{path}: no room for {size} bytes in the cache of shards ({why})")

    def _oldest_first(self, but: Path) -> dict[Path, int]:
        """Bytes of each file, those being fetched included; call it with the lock on the room."""
        found = []
        for path in self.directory.iterdir():
            if path != but and path.suffix != _LOCK:
                with suppress(FileNotFoundError):  # given up or discarded just now
                    status = path.stat()
                    found.append((status.st_mtime_ns, path, status.st_size))
        return {path: size for _, path, size in sorted(found)}

    def _evict(self, files: dict[Path, int]) -> bool:
        """Remove the first whole file of some, from `files` too; whether there was one."""
        oldest = next((path for path in files if path.suffix != INCOMPLETE), None)
        if oldest is None:
            return False
        del files[oldest]
        oldest.unlink(missing_ok=True)
        self.counts["evicted"] += 1
        return True

    def _remove_abandoned(self, own: Path) -> None:
        """Remove unfinished files whose writer is gone."""
        for path in self.directory.glob(f"*{INCOMPLETE}"):
            if path == own:
                continue
            with self._locked(path.name.removesuffix(INCOMPLETE), wait=False) as held:
                if held:
                    path.unlink(missing_ok=True)
                    self.counts["abandoned"] += 1

    @contextmanager
    def _locked(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of a name; the lock's file goes with its holder. Without `wait`, say whether we hold it."""
        path = self.directory / f"{name}{_LOCK}"
        while True:
            with path.open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                except BlockingIOError:
                    yield False
                    return
                if not _is_same(path, lock.fileno()):
                    continue  # its holder removed it while we waited for it; another may hold its successor
                try:
                    yield True
                finally:
                    path.unlink(missing_ok=True)
                return


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
