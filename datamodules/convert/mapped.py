"""Shards made of shards: a function makes none, one or several samples of each, and each shard becomes one.

A `Source` of the engine, and so resumed, checked and reported as any conversion is. An image that the function leaves
as it is keeps its bytes. How functions look that ask a model is the affair of `mmig.cache.map`.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from PIL import Image

from datamodules.convert.engine import Options, Progress, convert_part
from datamodules.convert.source import ConversionError, Finding, Source
from datamodules.decode import PLAIN_IMAGES, decode
from datamodules.faults import LOST, BadSample
from datamodules.features import MEMBER
from datamodules.outcome import Outcome
from datamodules.remote_index import open_index
from datamodules.schema import IMAGE_FIELDS, MASK_FIELDS, Sample
from datamodules.shard_index import ShardIndex
from datamodules.shard_reader import ShardReader
from datamodules.tar_index import ShardError

Map = Callable[[Sequence[Sample]], Sequence[Sequence[Sample] | str | Outcome]]
"""Samples -> the samples that come of each of them; a text instead says why there are none, an `Outcome` more."""


def map_shards(
    source: str | Path,
    out: str | Path,
    function: Map,
    facts: Mapping[str, str],
    batch_size: int = 16,
    rank: int = 0,
    num_ranks: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """Write the shards `out` of what a function makes of the samples of the shards `source`.

    Started again it goes on where it was. Shard i is written by rank i % num_ranks, and is the same to the byte
    whatever their number; the rank that finishes last joins them with an index.

    Args:
        source: folder of shards with their index, or its URL.
        out: folder of the result: its shards, their index, and `conversion.json` with what was dropped and why.
        function: takes up to `batch_size` samples of one shard; keys of what it makes must be unique.
        facts: what its result depends on beside the samples.
        rank, num_ranks: which process of how many this is.
        progress: told how many shards of all are done.

    Returns:
        The report, or None where other ranks are not done yet.

    Raises:
        ConversionError: the folder holds something else, or what was made with other facts.
        ShardError: as `open_index`; the storage does not give a sample; another process writes there.
    """
    if batch_size < 1:
        raise ConversionError(f"batch_size: expected at least 1, found {batch_size}")
    mapped = MappedShards(str(source), open_index(source), function, facts, batch_size)
    return convert_part(mapped, out, Options(rank=rank, num_ranks=num_ranks), progress)


class _Shard(NamedTuple):
    """One shard of the source; what it holds is known by its checksum."""

    number: int
    count: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class MappedShards(Source):
    """Shards and a function of their samples; see `map_shards`."""

    name: ClassVar[str] = "map"
    shards: ShardIndex
    function: Map
    facts: Mapping[str, str]
    batch_size: int

    def splits(self) -> dict[str, Sequence[_Shard]]:
        """One split without a name: its shards lie in the folder itself."""
        rows = enumerate(self.shards.shards)
        return {"": [_Shard(number, row.count, row.bytes, row.sha256) for number, row in rows]}

    def items_per_section(self, samples_per_shard: int) -> int:
        """One shard."""
        return 1

    def bytes_of(self, item: _Shard) -> int:
        """As many as it has."""
        return item.bytes

    def settings(self) -> dict[str, Any]:
        """The facts; where the shards lie does not count, and what they hold is known by the items."""
        return {"facts": dict(self.facts)}

    def samples(self, items: Sequence[_Shard]) -> Iterator[Sample | Finding | Counter[str]]:
        """What the function makes of the samples of a shard, in their order."""
        reader = ShardReader(self.shards)
        try:
            for shard in items:
                for start in range(0, shard.count, self.batch_size):
                    yield from self._batch(reader, shard, start, min(start + self.batch_size, shard.count))
        finally:
            reader.close()

    def _batch(
        self, reader: ShardReader, shard: _Shard, start: int, stop: int
    ) -> Iterator[Sample | Finding | Counter[str]]:
        found = [_read(reader, shard.number, row) for row in range(start, stop)]
        read = [entry for entry in found if isinstance(entry, _Read)]
        made = list(self.function([entry.sample for entry in read])) if read else []
        if len(made) != len(read):
            raise ConversionError(
                f"the mapper: expected samples for each of {len(read)}, found them for {len(made)}; it must return one "
                "sequence of samples for each sample that it is given, an empty one for none"
            )
        results = iter(made)
        for entry in found:
            if isinstance(entry, Finding):
                yield entry
                continue
            outcome = _outcome(next(results))
            if outcome.counts:
                yield Counter(outcome.counts)
            if not outcome.samples:
                reason = f"nothing: {outcome.reason}" if outcome.reason else "nothing"
                yield Finding(reason, entry.sample["key"], outcome.detail or "the mapper made no sample of it")
            yield from (entry.with_files(sample) for sample in outcome.samples)


def _outcome(made: Sequence[Sample] | str | Outcome) -> Outcome:
    if isinstance(made, Outcome):
        return made
    return Outcome(detail=made) if isinstance(made, str) else Outcome(made)


class _Kept(NamedTuple):
    """A decoded image, its file, and a checksum of its pixels."""

    image: Image.Image
    data: bytes
    checksum: int


@dataclass(frozen=True)
class _Read:
    """A sample and the files of its images, by the identity of the image."""

    sample: Sample
    kept: dict[int, _Kept]

    def with_files(self, sample: Sample) -> Sample:
        """A sample made of this one, with the file in place of each image that is still this one's."""
        return _each_image(sample, lambda field, value: self._file(value))

    def _file(self, value: Any) -> Any:
        kept = self.kept.get(id(value))
        return value if kept is None or _checksum(kept.image) != kept.checksum else kept.data


def _read(reader: ShardReader, shard: int, row: int) -> _Read | Finding:
    name = reader.key(shard, row)
    try:
        files = {field: bytes(data) for field, data in reader.read(shard, row).items() if field != MEMBER}
        sample = decode(name, files)
    except BadSample as bad:
        if bad.reason in LOST:
            raise ShardError(f"sample {name!r}: cannot be read now ({bad.detail}); start again to go on") from bad
        return Finding(bad.reason, name, bad.detail)
    by_field = {name.partition(".")[0]: data for name, data in files.items()}
    plain = next((files[name] for name in PLAIN_IMAGES if name in files), None)
    kept: dict[int, _Kept] = {}

    def keep(field: str, value: Any) -> Any:
        data = by_field.get(field, plain if field == "target" else None)
        if data is not None and isinstance(value, Image.Image):
            kept[id(value)] = _Kept(value, data, _checksum(value))
        return value

    _each_image(sample, keep)
    return _Read(sample, kept)


def _each_image(sample: Sample, change: Callable[[str, Any], Any]) -> Sample:
    """A copy of a sample with each image changed; told under which name its file lies, and the image."""
    changed: dict[str, Any] = dict(sample)
    for field in (*IMAGE_FIELDS, *MASK_FIELDS):
        if field in changed:
            changed[field] = change(field, changed[field])
    for entries, entry, part in (("concepts", "concept", "mask"), ("attachments", "attachment", "data")):
        if entries in changed:
            changed[entries] = [
                one | {part: change(f"{entry}{number}", one[part])} if part in one else one
                for number, one in enumerate(changed[entries])
            ]
    return changed  # type: ignore[return-value]


def _checksum(image: Image.Image) -> int:
    return zlib.crc32(image.tobytes())
