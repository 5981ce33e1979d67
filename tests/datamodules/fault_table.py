"""What the stream makes of each fault kind, and the table of it in docs/data.md.

`python -m tests.datamodules.fault_table` writes the table anew; tests/datamodules/test_fault_kinds.py compares.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.remote_index import open_index
from datamodules.schema import Batch
from datamodules.shards import ShardIndex
from datamodules.storage import Storage
from datamodules.stream import ShardStream
from datamodules.transforms import ImageTransform
from tests.datamodules import kinds_of_attachments, kinds_of_images, kinds_of_storage, kinds_of_tars, kinds_of_texts
from tests.datamodules.damage import GOOD_BEFORE, GOOD_BEHIND, SIDE, Kind, Service, gradient
from tests.datamodules.range_server import serving

KINDS: list[Kind] = [
    *(*kinds_of_tars.KINDS, *kinds_of_storage.KINDS, *kinds_of_images.KINDS, *kinds_of_texts.KINDS),
    *kinds_of_attachments.KINDS,
]
DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs/data.md"
BEGIN, END = "<!-- fault kinds: begin -->", "<!-- fault kinds: end -->"
HEAD = "| what is wrong | what happens | counted under |\n|---|---|---|\n"
_RUNS = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")
_CHANGES = ("os.mkdir", "os.symlink", "os.link", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.chown")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_watched: list[tuple[Path, list[str]]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what Python does that may execute something, or write outside of the watched folder."""
    if not _watched:
        return
    allowed, noted = _watched[-1]
    if event in _RUNS:
        noted.append(f"{event} {arguments}")
    elif event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
        path = arguments[0]
        if isinstance(path, int) or not Path(os.fsdecode(path)).resolve().is_relative_to(allowed):
            noted.append(f"{event} {arguments}")


@contextmanager
def watched(allowed: Path) -> Iterator[list[str]]:
    """What this process executes, or writes outside of `allowed`, while the context lasts."""
    _install()
    _watched.append((allowed.resolve(), []))
    try:
        yield _watched[-1][1]
    finally:
        _watched.pop()


@cache
def _install() -> None:
    sys.addaudithook(_audit)  # for good: a hook cannot be taken away


def stream_of(index: ShardIndex, max_bad_fraction: float) -> ShardStream:
    settings: dict[str, Any] = {"global_batch_size": 1, "seed": 0, "shuffle": False, "drop_last": False}
    return ShardStream(index, transform=ImageTransform(SIDE), max_bad_fraction=max_bad_fraction, **settings)


@contextmanager
def opened(kind: Kind, folder: Path) -> Iterator[ShardIndex]:
    """The index of a kind's shards, built in `folder/data`, with the damage done."""
    data = folder / "data"
    kind.build(data)
    if kind.service is not None:
        with _served(kind.service, folder) as index:
            yield index
        return
    index = ShardIndex.load(data)
    if kind.late is not None:
        kind.late(data / "0.tar")
    yield index


@contextmanager
def _served(service: Service, folder: Path) -> Iterator[ShardIndex]:
    cache = (
        {"cache_directory": str(folder / "cache"), "cache_bytes": service.cache_bytes} if service.cache_bytes else {}
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(folder) as server:
        service.misbehave(server)
        storage = Storage(timeout_s=1.0, attempts=2, backoff_s=0.01, **(cache if service.cache_bytes else {}))
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (service.file_limit or before[0], before[1]))
            yield open_index(f"{server.url}/data", storage=storage)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@dataclass(frozen=True)
class Observation:
    """What became of a kind: its row in the table, the reasons counted, and the batches of one epoch."""

    row: str
    reasons: list[str]
    batches: list[Batch]


def observe(kind: Kind, index: ShardIndex, allowed: Path) -> Observation:
    """Read one epoch; nothing is executed, nor written outside of a folder."""
    with watched(allowed) as noted:
        stream = stream_of(index, 0.75)
        batches = list(stream)
    assert noted == []
    reasons = sorted({reason for reason, _ in stream.fault_counts})
    outcome = "skipped" if reasons else f"read: {kind.reading}"
    counted = ", ".join(f"`{reason}`" for reason in reasons)
    return Observation(f"| {kind.name} | {outcome} | {counted} |", reasons, batches)


def check_good(kind: Kind, batches: list[Batch]) -> None:
    """All good samples came, but for those that this damage takes along, with their own pixels and texts."""
    found = {batch["key"][0]: batch for batch in batches}
    count = GOOD_BEFORE + GOOD_BEHIND
    missing = count - len(found.keys() & {f"{number:03d}" for number in range(count)})
    assert missing <= kind.lost
    for number in range(count):
        if (batch := found.get(f"{number:03d}")) is not None:
            assert batch["instruction"] == [f"make {number} red"] and batch["metadata"] == [{"number": number}]
            assert difference(batch["source"], gradient(2 * number)) == 0
            assert difference(batch["target"], gradient(2 * number + 1)) == 0


def check_read(kind: Kind, batches: list[Batch]) -> None:
    """The odd sample came with what is expected of it."""
    batch = next(batch for batch in batches if batch["key"] == [kind.key])
    for name, expected in kind.expected.items():
        if name != "metadata":
            assert bool(batch[f"has_{name}"]) == (expected is not None), name
        if isinstance(expected, np.ndarray):
            assert difference(batch[name], expected) <= kind.tolerance, name
        elif expected is not None:
            assert batch[name] == [expected], name


def difference(tensor: torch.Tensor, expected: np.ndarray) -> float:
    """Mean difference in 1/255 of an image [1,3,H,W] in [-1,1] or a mask [1,1,H,W] in {0,1}."""
    if expected.ndim == 2:
        return 255 * float(np.abs(tensor[0, 0].numpy() - expected).mean())
    pixels = (tensor[0].permute(1, 2, 0).double().numpy() + 1) * 127.5
    return float(np.abs(np.round(pixels, 3) - expected).mean())


def committed_rows() -> list[str]:
    """The rows of the table in docs/data.md."""
    text = DOCUMENT.read_text(encoding="utf-8").split(BEGIN + "\n", 1)[1].split(END, 1)[0]
    assert text.startswith(HEAD)
    return text.removeprefix(HEAD).splitlines()


def main() -> None:
    """Write the table of docs/data.md anew, between its two marks."""
    rows = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name, opened(kind, folder := Path(name)) as index:
            rows.append(observe(kind, index, folder).row + "\n")
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{HEAD}{''.join(rows)}{END}{rest.split(END, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
