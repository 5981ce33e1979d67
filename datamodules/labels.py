"""Which samples of a folder of shards are chosen, and in which bucket each is: one byte a sample, found once and kept.

Only the JSON of each sample is read, and of its first image the header where sizes are asked for. What cannot be read
is chosen: the stream will meet it, and counts it as bad.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.buckets import Size, nearest, square
from datamodules.faults import BadSample
from datamodules.filters import Filter
from datamodules.image_size import upright_size
from datamodules.keys import sample_key
from datamodules.portions import LEFT_OUT
from datamodules.schema import IMAGE_FIELDS, Sample
from datamodules.shard_index import OpenShard, ShardIndex
from datamodules.storage import StorageError
from datamodules.tar_index import DAMAGED, Member, ShardError

HEADER_BYTES = 2**16
"""Bytes of an image that are read at first to find its size."""
_PLAIN_IMAGES = ("jpg", "jpeg", "png", "webp")
_log = logging.getLogger(__name__)


class SelectionError(ShardError):
    """A selection that cannot be made; one line says of which folder, what was found and what to do."""


@dataclass(frozen=True)
class Labelling:
    """What is asked of each sample: a filter (None: all are chosen) and the sizes of the buckets (None: one bucket)."""

    where: Filter | None = None
    sizes: tuple[Size, ...] | None = None

    @property
    def identity(self) -> str:
        """All that labels depend on besides the samples, as a short name."""
        text = repr((1, self.where and self.where.text, self.sizes))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def asks_size(self) -> bool:
        """Whether image headers must be read."""
        return self.sizes is not None or bool(self.where and self.where.names & {"width", "height"})

    def label(self, facts: dict[str, Any] | None) -> int:
        """The bucket of a sample with these fields (None: unreadable), or `LEFT_OUT`."""
        if facts is not None and self.where is not None and not self.where(facts):
            return LEFT_OUT
        if self.sizes is None:
            return 0
        if facts is None or facts["width"] is None:
            return square(self.sizes)
        return nearest(self.sizes, facts["width"], facts["height"])


def load_labels(index: ShardIndex, asked: Labelling, folder: Path, workers: int = 0) -> np.ndarray:
    """Labels of all samples in the order of the index, uint8, memory-mapped.

    Args:
        index: the shards. asked: what decides. folder: where the labels are kept. workers: processes that read the
            samples the first time (0: this one).

    Raises:
        SelectionError: nothing is chosen, a name in the filter that no sample has, labels that are damaged.
        ShardError: samples that cannot be fetched, or a member index that cannot be used.
        OSError: the folder cannot be written.
    """
    path = folder / f"labels-{hashlib.sha256(index.fingerprint.encode()).hexdigest()[:8]}-{asked.identity}.npy"
    if not path.exists():
        _log.info("%s: reading what %d samples are, once; kept in %s", index.directory, len(index), path)
        _write(path, _find(index, asked, workers))
    try:
        labels = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise SelectionError(f"{path}: damaged ({error}); remove it, it is made again") from error
    if labels.shape != (len(index),) or labels.dtype != np.uint8:
        raise SelectionError(f"{path}: expected {len(index)} labels, found {labels.shape}; remove it, it is made again")
    return labels


def _write(path: Path, labels: np.ndarray) -> None:
    """Under a temporary name first, one of its own: several machines may do the same work on one file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".incomplete", delete=False) as file:
        try:
            np.save(file, labels)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _find(index: ShardIndex, asked: Labelling, workers: int) -> np.ndarray:
    found = list(_each_shard(index, asked, workers))
    labels = np.concatenate([of_shard for of_shard, _ in found])
    named = set().union(*(names for _, names in found))  # empty, if no sample can be read
    if asked.where and named and (unknown := asked.where.names - named - {*Sample.__annotations__, "width", "height"}):
        raise SelectionError(f"{index.directory}: where: no sample has a field {min(unknown)!r}; correct the name")
    if asked.where and not (labels != LEFT_OUT).any():
        raise SelectionError(f"{index.directory}: where: no sample of {len(index)} is chosen by {asked.where.text!r}")
    return labels


def _each_shard(index: ShardIndex, asked: Labelling, workers: int) -> Iterator[tuple[np.ndarray, set[str]]]:
    numbers = range(len(index.shards))
    if not workers:
        yield from (_label_shard(index, asked, number) for number in numbers)
        return
    fork = multiprocessing.get_context("fork")  # without importing torch again in every process
    with ProcessPoolExecutor(workers, fork, _begin, (index, asked)) as pool:
        yield from pool.map(_label_in_worker, numbers, chunksize=4)


_in_worker: dict[str, tuple[ShardIndex, Labelling]] = {}
"""What a worker process labels; filled by `_begin` in the worker alone."""


def _begin(index: ShardIndex, asked: Labelling) -> None:
    _in_worker["task"] = index, asked


def _label_in_worker(number: int) -> tuple[np.ndarray, set[str]]:
    return _label_shard(*_in_worker["task"], number)


def _label_shard(index: ShardIndex, asked: Labelling, number: int) -> tuple[np.ndarray, set[str]]:
    """Labels of one shard, and the names of fields that its samples have."""
    names: set[str] = set()
    labels = np.full(index.shards[number].count, asked.label(None), np.uint8)
    try:
        members, shard = index.open_members(number), index.open_shard(number)
    except StorageError as error:
        if error.may_pass:
            raise
        return labels, names
    except OSError:  # not there: each of its samples is a fault of its own to the stream
        return labels, names
    try:
        for sample in range(len(members)):
            facts = read_facts(shard, members.members(sample), asked.asks_size)
            labels[sample] = asked.label(facts)
            names |= (facts or {}).keys()
    finally:
        shard.close()
    return labels, names


def read_facts(shard: OpenShard, members: Sequence[Member], with_size: bool) -> dict[str, Any] | None:
    """The fields of a sample that are no images, those of its metadata beside them; None if they cannot be read.

    In both layouts of `decode`: the metadata is a field too, and a field of the sample goes before one of the same name
    in the metadata. With `with_size` also `width` and `height` of the first image in pixels, None without an image.
    """
    by_field = {member.field: member for member in members}
    if DAMAGED in by_field:
        return None
    plain = next((name for name in _PLAIN_IMAGES if name in by_field), None)
    try:
        record = _parse(_read(shard, by_field["json"])) if "json" in by_field else {}
        text = _read(shard, by_field["txt"]).decode().strip() if "txt" in by_field else None
        size = _size(shard, by_field, plain) if with_size else {}
        if plain or text is not None:
            record = {"metadata": record, "target_caption": text if text is not None else record.get("caption")}
        if isinstance(metadata := record.get("metadata"), str):
            metadata = _parse(metadata.encode())
        known = {name: value for name, value in record.items() if value is not None}
        inner = metadata if isinstance(metadata, dict) else {}
        return {**inner, **known, "metadata": inner, "key": sample_key(members[0].key), **size}
    except StorageError as error:
        if error.may_pass:
            raise
    except (BadSample, ValueError, RecursionError):
        pass
    return None


def _parse(data: bytes) -> dict[str, Any]:
    record = json.loads(data, parse_constant=lambda _: None)
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found {type(record).__name__}")
    return record


def _read(shard: OpenShard, member: Member) -> bytes:
    data = shard.read(member.offset, member.size)
    if len(data) != member.size or zlib.crc32(data) != member.crc32:
        raise ValueError("the member's bytes are not those that were indexed")
    return data


def _size(shard: OpenShard, by_field: dict[str, Member], plain: str | None) -> dict[str, int | None]:
    """Width and height of the first image, from its first bytes, or from all of it where those do not say."""
    names = (f"{field}.{suffix}" for field in IMAGE_FIELDS for suffix in _PLAIN_IMAGES)
    name = plain or next((name for name in names if name in by_field), None)
    if name is None:
        return {"width": None, "height": None}
    member = by_field[name]
    try:
        width, height = upright_size(shard.read(member.offset, min(HEADER_BYTES, member.size)))
    except BadSample:
        width, height = upright_size(shard.read(member.offset, member.size))
    if not width or not height:
        raise BadSample("empty", "an image without pixels")
    return {"width": width, "height": height}
