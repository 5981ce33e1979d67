"""Samples to look at, one by one, each as it is or with what is wrong with it: of shards, or of a folder of pairs.

Nothing is written, and nothing is drawn from any generator that a training draws from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from datamodules.browse.places import Places
from datamodules.convert.edit_table import Row
from datamodules.convert.files import read_file
from datamodules.decode import decode
from datamodules.faults import BadSample
from datamodules.images import decode_image
from datamodules.order import mix
from datamodules.schema import AttachmentSettings, Fault, Sample, SchemaError, validate, with_attachment_tensors
from datamodules.shard_index import ShardIndex
from datamodules.shard_reader import ShardReader
from datamodules.transforms import ImageTransform

_SHAPES = ImageTransform(8)
"""What tells whether the pictures of a sample fit each other; in training it is larger, and says the same."""


class Item(NamedTuple):
    """A sample, or what is wrong with it; one of both.

    `where` is the shard, or the line of the table, that it is of.
    """

    key: str
    where: str
    sample: Sample | None
    fault: Fault | None = None


@dataclass(frozen=True)
class Pair:
    """What belongs together in a folder of pictures: paths below it ("" where there is none), and texts by field."""

    key: str
    where: str
    source: str
    target: str
    texts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, row: Row, key: str) -> Pair:
        """That of a row of a table."""
        return cls(key, Path(row.where).name, row.source, row.target, row.texts)


def shard_items(
    index: ShardIndex,
    most: int,
    seed: int = 0,
    attachments: AttachmentSettings | None = None,
    shuffled: bool = False,
) -> Iterator[Item]:
    """Samples of shards, spread evenly over them, as the stream would read them.

    Args:
        index: the shards. most: samples to read; 0 for all. seed: draws which ones. attachments: what is too long.
        shuffled: not in the order of the index, so that whoever stops early has seen some of all of it.
    """
    reader, settings = ShardReader(index), attachments or AttachmentSettings()
    places = Places(index, most, 0, seed)
    numbers = range(len(places))
    for number in sorted(numbers, key=lambda number: mix(seed, number)) if shuffled else numbers:
        shard, row, _, _ = places.of(number, False)
        name, key = index.shards[shard].name, ""
        try:
            key = reader.key(shard, row)
            sample = decode(key, reader.read(shard, row), with_answers=False)
            with_attachment_tensors(_SHAPES(sample, 0, 0), settings)
        except (BadSample, SchemaError) as bad:
            yield _bad(key, name, bad)
            continue
        yield Item(key, name, sample)


def pair_items(root: Path, pairs: Sequence[Pair]) -> Iterator[Item]:
    """The samples of a folder of pictures."""
    for pair in pairs:
        fields: dict[str, Any] = {"key": pair.key, **dict(pair.texts)}
        try:
            for name, path in (("source", pair.source), ("target", pair.target)):
                if path:
                    fields[name] = decode_image(name, read_file(root, path))
            validate(fields)
            _SHAPES(cast(Sample, fields), 0, 0)
        except (BadSample, SchemaError) as bad:
            yield _bad(pair.key, pair.where, bad)
            continue
        yield Item(pair.key, pair.where, cast(Sample, fields))


def _bad(key: str, where: str, bad: BadSample | SchemaError) -> Item:
    return Item(key, where, None, {"reason": bad.reason, "shard": where, "key": key, "detail": str(bad)})
