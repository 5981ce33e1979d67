"""What a conversion gave, for the tests to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.convert.engine import Options, convert
from datamodules.convert.source import Source
from datamodules.decode import decode
from datamodules.schema import Sample
from datamodules.shard_index import ShardIndex
from datamodules.shards import verify


def converted(source: Source, out: Path, **options: Any) -> dict[str, Any]:
    """Convert a part of a dataset in this process; its report."""
    return convert(source, out, Options(**{"partial": True, **options}))


def samples(folder: Path, tars: Path | None = None) -> dict[str, Sample]:
    """Every sample of a folder of shards by key, decoded; each byte is checked first."""
    assert verify(tars or folder, folder) == []
    index = ShardIndex.load(tars or folder, folder)
    found = {}
    for number, row in enumerate(index.shards):
        data = index.tar_path(row.name).read_bytes()
        members = index.open_members(number)
        for place in range(len(members)):
            files = {m.field: data[m.offset : m.offset + m.size] for m in members.members(place)}
            sample = decode(members.key(place), files)
            found[sample["key"]] = sample
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
