"""Fault kinds: storage behind a URL, and the local cache in front of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.datamodules.damage import Kind, Service, of_tar
from tests.datamodules.kinds_of_tars import EXPECTED, shorten
from tests.datamodules.range_server import (
    Fault,
    Handler,
    Server,
    answer_500,
    close_early,
    flip,
    forbid,
    ignore_ranges,
    stall,
)

PLENTY = 2**30
TAR = r"0\.tar$"


def nothing(path: Path) -> None:
    """The shard stays as it is."""


def to_odd(fault: Fault) -> Callable[[Server], object]:
    """A fault that meets every request for the odd sample alone."""

    def only_odd(handler: Handler, data: bytes) -> bool:
        return b"odd.source.png" in data and fault(handler, data)

    return lambda server: server.misbehave(only_odd, TAR)


def to_all(fault: Fault, pattern: str = TAR, times: int = 10**9) -> Callable[[Server], object]:
    return lambda server: server.misbehave(fault, pattern, times)


def lost(name: str, reason: str, misbehave: Callable[[Server], object], lost: int = 0, cache_bytes: int = 0) -> Kind:
    return Kind(name, of_tar(nothing, indexed=True), reason, lost=lost, service=Service(misbehave, cache_bytes))


def read(name: str, reading: str, misbehave: Callable[[Server], object], cache_bytes: int = 0, limit: int = 0) -> Kind:
    build = of_tar(nothing, indexed=True)
    return Kind(name, build, "", None, reading, EXPECTED, service=Service(misbehave, cache_bytes, limit))


def on_server(name: str, reason: str, damage: Callable[[Path], object], cache_bytes: int = 0) -> Kind:
    build = of_tar(damage, indexed=True)
    return Kind(name, build, reason, lost=8, service=Service(lambda server: None, cache_bytes))


KINDS = [
    read("server that stalls once", "asked again", to_all(stall, times=1)),
    read("server that answers 500 once", "asked again", to_all(answer_500, times=1)),
    read("server that closes early once", "asked again", to_all(close_early, times=1)),
    read("bytes flipped on the way once", "asked again", to_all(flip, times=1)),
    read("bytes flipped on the way into the cache once", "asked again", to_all(flip, times=1), PLENTY),
    read("member index flipped on the way once", "asked again", to_all(flip, r"0\.idx$", 1)),
    lost("server that stalls", "stalled", to_odd(stall)),
    lost("server that answers 500", "server", to_odd(answer_500)),
    lost("server that closes early", "connection", to_odd(close_early)),
    lost("server that refuses (403)", "server", to_odd(forbid)),
    lost("server that ignores ranges", "server", to_all(ignore_ranges), lost=8),
    lost("bytes flipped on the way", "checksum", to_odd(flip)),
    lost("bytes flipped on the way into the cache", "checksum", to_odd(flip), cache_bytes=PLENTY),
    on_server("shard that the server does not have", "missing", lambda path: path.unlink()),
    on_server("member index that the server does not have", "missing", lambda path: path.with_suffix(".idx").unlink()),
    on_server("shard shorter on the server than its index says", "checksum, truncated", shorten),
    on_server("the same, by way of the cache", "checksum, truncated", shorten, PLENTY),
    read("cache smaller than a shard", "past the cache", lambda server: None, 1000),
    read("full disk of the cache", "past the cache", lambda server: None, PLENTY, 2000),
]
