"""One section of a split: the same items always give the same shard, whoever writes it, whenever, beside whom."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.convert.source import Finding, Findings, IndexSource, Source, WrittenShard
from datamodules.decode import decode
from datamodules.encode import encode
from datamodules.faults import BadSample
from datamodules.schema import SchemaError
from datamodules.shard_index import INCOMPLETE
from datamodules.shard_writer import write_shard
from datamodules.transforms import ImageTransform

_FITS = ImageTransform(8)  # what the stream does first: finds images and masks of different shapes


@dataclass(frozen=True)
class Section:
    """Items `start`..`stop` of a split; their number makes the shard's name."""

    split: str
    number: int
    start: int
    stop: int

    @property
    def shard(self) -> str:
        """Name of the tar."""
        return f"{self.number:05d}.tar"


def cut(splits: dict[str, Sequence[Any]], items_per_section: int) -> list[Section]:
    """All sections of all splits: a function of the items alone, not of what will be dropped."""
    return [
        Section(split, number, start, min(start + items_per_section, len(items)))
        for split, items in splits.items()
        for number, start in enumerate(range(0, len(items), items_per_section))
    ]


def write_section(
    source: Source, section: Section, items: Sequence[Any], folder: Path, scratch: Path, check: bool
) -> WrittenShard:
    """Write what a section gives into `folder`; see `write_samples`. Shards used as they are get an index only."""
    if isinstance(source, IndexSource):
        return source.index(items[0], folder)
    return write_samples(source, items, folder / section.shard, scratch, check)


def write_samples(source: Source, items: Sequence[Any], target: Path, scratch: Path, check: bool) -> WrittenShard:
    """Write the samples of `items` as the shard `target`.

    Args:
        target: of the tar; its member index gets the suffix `.idx`. scratch: folder on the same disk, this process's.
        check: decode what was encoded, as the stream will, and drop what it would refuse.

    Returns:
        The shard's row (None if every sample was dropped: then nothing is written) and what was found.
    """
    findings = Findings()
    row = write_shard(scratch, target.name, _encoded(source, items, findings, check))
    written, index = scratch / f"{target.name}{INCOMPLETE}", scratch / f"{target.stem}.idx{INCOMPLETE}"
    if not row.count:
        written.unlink()
        index.unlink()
        return WrittenShard(None, findings)
    os.replace(index, target.with_suffix(".idx"))
    os.replace(written, target)
    return WrittenShard(row, findings)


def _encoded(
    source: Source, items: Sequence[Any], findings: Findings, check: bool
) -> Iterator[tuple[str, dict[str, bytes]]]:
    keys: set[str] = set()
    for sample in source.samples(items):
        if isinstance(sample, Finding):
            findings.add(sample)
            continue
        if isinstance(sample, Counter):
            findings.counted.update(sample)
            continue
        key = str(sample.get("key"))
        try:
            if key in keys:
                raise BadSample("key", f"key {key!r} comes twice")
            if absent := next((name for name in source.required if is_blank(sample.get(name))), None):
                raise BadSample("field", f"no {absent}")
            files = encode(sample)
            if max(len(f"{key}.{name}".encode()) for name in files) > tarfile.LENGTH_NAME:
                raise BadSample("key", f"key {key!r} is too long for a tar")
            if check:
                _FITS(decode(key, files), 0, 0)
        except SchemaError as error:
            findings.add(Finding(error.reason, key, str(error)))
        except UnicodeEncodeError as error:  # half a character, which JSON can write and UTF-8 cannot
            findings.add(Finding("text", key, f"a text with half a character ({error})"))
        except BadSample as bad:
            findings.add(Finding(bad.reason, key, bad.detail))
        else:
            keys.add(key)
            yield key, files


def is_blank(value: Any) -> bool:
    """Whether a field says nothing: it is not there, or a text without words."""
    return value is None or (isinstance(value, str) and not value.strip())
