"""LAION and whatever else img2dataset downloaded: its shards are used where and as they are, only an index is made.

Beside `NAME.tar` lie `NAME.parquet` (a row a download, failed ones too) and `NAME_stats.json`, which appears when a
shard is finished. Samples are counted in the tar alone. `ShardData(train=SOURCE, index_directory=OUT)` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from datamodules.convert.files import MAX_JSON_BYTES, existing_folder, parse_json
from datamodules.convert.filters import Filters
from datamodules.convert.source import ConversionError, Finding, Findings, IndexSource, WrittenShard
from datamodules.convert.tables import open_parquet
from datamodules.faults import BadSample
from datamodules.shard_index import ShardInfo, replace_file
from datamodules.tar_index import DAMAGED, Member, ShardError, file_sha256, pack, scan, tars_in

_INDEX_BYTES = 130  # of a sample of img2dataset (picture, text and JSON, named by 9 digits) in a member index
_INDEX_SHARE = 0.02  # about the bytes of a member index to those of its shard, where nothing says how many samples


class Tar(NamedTuple):
    """A shard: its name and its bytes."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Laion(IndexSource):
    """img2dataset's shards, all as one split `train`.

    Attributes:
        filters: which samples the index lists. missing: what becomes of a sample without the value that a filter asks
            for; it is counted either way.
    """

    name: ClassVar[str] = "laion"
    filters: Filters = field(default_factory=Filters)
    missing: Literal["keep", "drop"] = "keep"

    def splits(self) -> dict[str, Sequence[Any]]:
        """The tars of the folder by name; numbers may have gaps."""
        root = existing_folder(self.source)
        tars = tars_in(root)
        if not tars:
            raise ConversionError(f"{root}: expected .tar files as img2dataset writes them, found none")
        return {"train": [Tar(path.name, path.stat().st_size) for path in tars]}

    def describe(self, item: Tar) -> str:
        """The tar's name."""
        return item.name

    def bytes_of(self, item: Tar) -> int:
        """Of the index alone."""
        try:
            successes = _successes(_statistics(Path(self.source) / item.name))
        except (BadSample, OSError):
            successes = None
        return int(item.bytes * _INDEX_SHARE) if successes is None else successes * _INDEX_BYTES

    def index(self, item: Tar, folder: Path) -> WrittenShard:
        """Index one tar, without the samples that a filter refuses; damage is indexed too, so that it counts later."""
        findings, path = Findings(), Path(self.source) / item.name
        try:
            members = list(scan(path))
        except (ShardError, OSError) as error:
            findings.add(Finding("shard", item.name, str(error)))
            return WrittenShard(None, findings)
        samples = [(key, list(group)) for key, group in groupby(members, lambda member: member.key)]
        for finding in self._doubts(path, len(samples)):
            findings.add(finding)
        listed = list(self._selected(path, samples, findings)) if self.filters.active else members
        packed, count = pack(listed)
        if not count:
            return WrittenShard(None, findings)
        replace_file((folder / item.name).with_suffix(".idx"), packed)
        selected_of = None if count == len(samples) else len(samples)
        return WrittenShard(ShardInfo(item.name, count, item.bytes, file_sha256(path), selected_of), findings)

    def _selected(
        self, path: Path, samples: Sequence[tuple[str, list[Member]]], findings: Findings
    ) -> Iterator[Member]:
        """Members of the samples that pass; a sample whose metadata cannot be read passes, the stream judges it."""
        records = _Records(path)
        for key, members in samples:
            if members[0].field == DAMAGED:
                yield from members
                continue
            record = records.of(key, members)
            if refused := self.filters.refused(record):
                findings.add(Finding(refused.reason, key, refused.detail))
                continue
            drop = self.missing == "drop"
            unknown = [Finding(reason, key, detail, drop) for reason, detail in self.filters.unknown(record)]
            for finding in unknown[:1] if drop else unknown:
                findings.add(finding)
            if not (unknown and drop):
                yield from members

    def _doubts(self, path: Path, count: int) -> Iterator[Finding]:
        """A shard that img2dataset had not finished, or of which a part is missing."""
        statistics = _statistics(path)
        if not statistics.is_file():
            if _has_statistics(path.parent):
                yield Finding("unfinished", path.name, f"{statistics.name} is missing", dropped=False)
            return
        try:
            successes = _successes(statistics)
        except (BadSample, OSError) as error:
            yield Finding("unfinished", path.name, f"{statistics.name}: {error}", dropped=False)
            return
        if successes is not None and successes > count:
            detail = f"{count} samples, {statistics.name} says {successes}"
            yield Finding("unfinished", path.name, detail, dropped=False)


def _statistics(tar: Path) -> Path:
    return tar.with_name(f"{tar.stem}_stats.json")


def _successes(statistics: Path) -> int | None:
    """How many samples img2dataset put into a tar, None if its statistics do not say.

    Raises:
        BadSample, OSError: they cannot be read.
    """
    found = parse_json(statistics.read_bytes(), statistics.name)
    successes = found.get("successes") if isinstance(found, Mapping) else None
    return successes if isinstance(successes, int) else None


@lru_cache(maxsize=4)
def _has_statistics(folder: Path) -> bool:
    """Whether any shard of a folder has statistics; asked for each shard of tens of thousands."""
    return any(folder.glob("*_stats.json"))


class _Records:
    """Metadata of the samples of a tar: the JSON in it, or the rows of the parquet file beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] | None = None

    def of(self, key: str, members: Sequence[Member]) -> Mapping[str, Any]:
        """The metadata of one sample, {} where none can be read."""
        member = next((member for member in members if member.field == "json"), None)
        if member is None:
            return self._from_parquet(key.rpartition("/")[2])
        if member.size > MAX_JSON_BYTES:
            return {}  # the stream counts it when it reads the sample
        with self._path.open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
        try:
            record = parse_json(data, member.key)
        except BadSample:
            return {}  # as above
        return record if isinstance(record, dict) else {}

    def _from_parquet(self, key: str) -> Mapping[str, Any]:
        if self._rows is None:
            path = self._path.with_suffix(".parquet")
            try:
                rows = open_parquet(str(path)).read().to_pylist() if path.is_file() else []
            except (ValueError, OSError):  # damaged: its samples count as those without values
                rows = []
            self._rows = {str(row.get("key")): row for row in rows}
        return self._rows.get(key, {})
