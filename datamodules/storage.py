"""Bytes from `fsspec` URLs (http, https, s3, gs, ...): ranged requests with a time limit, tried again with backoff.

What cannot be had becomes one `StorageError` with a reason of `faults.REASONS`; nothing here knows what the bytes mean.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs

from datamodules.tar_index import ShardError

REQUEST_BYTES = 8 * 2**20
"""Bytes asked for at once, so that the time limit is one on speed and a broken download goes on where it stopped."""
_LONGEST_PAUSE_S = 30.0
_NO_SUCH_RANGE = 416
_MAY_PASS = (408, 425, 429)  # client errors that another attempt may not meet
_systems: dict[int, AsyncFileSystem] = {}
"""Every file system in use, so that a forked worker never lets go of those of its parent: fsspec would close their
connections in the worker, by way of the epoll that it shares with the parent, which then waits for answers in vain."""
_USER, _QUERY = re.compile(r"(?<=://)[^/?#\s]*@"), re.compile(r"(\w://[^\s?'\"]*)\?[^\s'\"]*")


class StorageError(ShardError):
    """Bytes that the storage did not give.

    `reason` is "missing", "truncated", "stalled", "server" or "connection"; see `faults.REASONS`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[StorageError], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # else it could not come back from another process

    @property
    def may_pass(self) -> bool:
        """Whether it says nothing about the file: the storage may give it later."""
        return self.reason in ("stalled", "server", "connection")


class _Refused(Exception):  # noqa: N818 - an answer, which no second attempt will change
    def __init__(self, reason: str, finding: str) -> None:
        super().__init__(finding)
        self.reason = reason


@dataclass(frozen=True)
class Storage:
    """How shards behind URLs are read; local ones need none of it.

    Args:
        timeout_s: seconds after which a request (of at most 8 MiB) counts as stalled. File systems of fsspec that are
            not asynchronous keep their own limit.
        attempts: how often a request is tried; `backoff_s`: pause after the first failure, doubled after each further
            one up to 30 s, and shortened at random by up to a half, so that processes do not come back all at once.
        cache_directory: local folder below which, in `remote_index.CACHE_FOLDER`, whole shards are kept, which all
            processes of a machine share; None reads ranges only.
        cache_bytes: the most that the shards in that folder take; the least recently used ones make room.
        options: what the file system of the URL's protocol takes, such as `key`, `secret`, `endpoint_url` for s3.

    Raises:
        ValueError: a number that is out of range, or a limit without a folder.
    """

    timeout_s: float = 30.0
    attempts: int = 5
    backoff_s: float = 0.5
    cache_directory: str | None = None
    cache_bytes: int = 100 * 2**30
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("timeout_s", 0.001), ("attempts", 1), ("backoff_s", 0), ("cache_bytes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"storage.{name}: expected at least {least}, found {getattr(self, name)}")


def is_url(location: object) -> bool:
    """Whether a location is a URL rather than a local path."""
    return "://" in str(location)


def joined(folder: str, name: str) -> str:
    """Location of what is called `name` in a folder; the query of a URL, such as a signature, stays behind it."""
    path, mark, query = folder.partition("?") if is_url(folder) else (folder, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def without_secrets(text: object) -> str:
    """A text, for people to read, whose URLs have neither a user with a password nor a query with a signature."""
    return _QUERY.sub(r"\1", _USER.sub("", str(text)))


class RemoteFolder:
    """A folder behind a URL. `str()` gives the URL without secrets, so messages name it as they name a local folder."""

    def __init__(self, url: str, storage: Storage) -> None:
        self._url = url
        self._storage = storage
        self._failing = False  # then each request has one attempt until one succeeds: a dead server costs little

    def __str__(self) -> str:
        return without_secrets(self._url).rstrip("/")

    def url(self, name: str) -> str:
        """URL of a file in the folder, for messages."""
        return without_secrets(joined(self._url, name))

    def read_all(self, name: str) -> bytes:
        """All bytes of a small file.

        Raises:
            StorageError: as in `read`.
        """
        return self._persistently(name, None, None)

    def read(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes of a file from byte `start` on.

        Raises:
            StorageError: the file is not there ("missing"), ends before ("truncated"), the server cannot or will not
                do this ("server"), or all attempts failed; one line with the URL and the last finding.
        """
        return b"".join(self._chunks(name, start, length))

    def download(self, name: str, size: int, write: Callable[[bytes], object]) -> str:
        """Hand a file of `size` bytes to `write`, piece by piece; returns its SHA-256 as hex.

        Raises:
            StorageError: as in `read`.
        """
        digest = hashlib.sha256()
        for chunk in self._chunks(name, 0, size):
            digest.update(chunk)
            write(chunk)
        return digest.hexdigest()

    def _chunks(self, name: str, start: int, length: int) -> Iterator[bytes]:
        for begin in range(start, start + length, REQUEST_BYTES):
            yield self._persistently(name, begin, min(begin + REQUEST_BYTES, start + length))

    def _persistently(self, name: str, start: int | None, end: int | None) -> bytes:
        attempts = 1 if self._failing else self._storage.attempts
        short, reason, finding = 0, "connection", ""
        for attempt in range(attempts):
            if attempt:
                time.sleep(self._pause(attempt))
            try:
                data = self._request(joined(self._url, name), start, end)
                if start is None or end is None or len(data) == end - start:
                    self._failing = False
                    return data
                finding, short = f"expected bytes {start} to {end}, got {len(data)} bytes", short + 1
                if len(data) > end - start:
                    raise _Refused("server", f"{finding}: the server ignores ranges; use one that gives parts of files")
                if short == 2:  # a whole answer, twice
                    raise _Refused("truncated", finding)
            except _Refused as refusal:
                self._failing = False
                raise StorageError(refusal.reason, f"{self.url(name)}: {without_secrets(refusal)}") from refusal
            except Exception as error:  # noqa: BLE001 - each file system has error classes of its own
                reason, finding = _reason(error), f"{type(error).__name__} {error}".strip().replace("\n", " ")
                finding = without_secrets(finding)
        self._failing = True
        raise StorageError(reason, f"{self.url(name)}: {finding}; given up after {attempts} attempts")

    def _pause(self, attempt: int) -> float:
        pause = min(_LONGEST_PAUSE_S, self._storage.backoff_s * 2 ** (attempt - 1))
        return pause * (1 - random.random() / 2)

    def _request(self, url: str, start: int | None, end: int | None) -> bytes:
        try:
            system, path = url_to_fs(url, **self._storage.options)  # kept by fsspec, one a process
        except (ValueError, ImportError) as error:
            raise _Refused("server", f"no file system for such URLs ({error})") from error
        try:
            if not isinstance(system, AsyncFileSystem):
                return system.cat_file(path, start=start, end=end)
            _systems[id(system)] = system
            waiting = asyncio.run_coroutine_threadsafe(system._cat_file(path, start=start, end=end), system.loop)
            try:
                return waiting.result(self._storage.timeout_s)
            except TimeoutError as error:
                waiting.cancel()
                raise TimeoutError(f"no answer within {self._storage.timeout_s:g} s") from error
        except FileNotFoundError as error:
            raise _Refused("missing", "there is no such file") from error
        except PermissionError as error:
            raise _Refused("server", f"access refused ({error}); see storage.options") from error
        except Exception as error:
            status = _status(error)
            if 400 <= status < 500 and status not in _MAY_PASS:
                reason = "truncated" if status == _NO_SUCH_RANGE else "server"
                raise _Refused(reason, f"the server answered {status} ({getattr(error, 'message', error)})") from error
            raise


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "stalled"
    return "server" if _status(error) else "connection"


def _status(error: BaseException) -> int:
    """The HTTP status behind an error of a file system, 0 if there is none."""
    for found in (error, error.__cause__):  # aiohttp: `status`; botocore: a dictionary, behind an OSError of s3fs
        response = getattr(found, "response", None)
        answer = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        status = answer or getattr(found, "status", None)
        if isinstance(status, int):
            return status
    return 0
