"""Tar shards in the schema: write, index, verify. `python -m datamodules.shards verify DIR`.

A folder of shards is plain tar files, `index.json` (see `shard_index`) and one small `NAME.idx` a shard (`tar_index`).
Tars are written under a temporary name and renamed at the end, `index.json` last: a folder without it is not complete.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from datamodules.commands import OptionParser, interruptible, printable_output
from datamodules.convert.mapped import map_shards
from datamodules.encode import encode
from datamodules.keys import refuse_repeated_keys, sample_key
from datamodules.schema import Sample
from datamodules.shard_index import (
    INCOMPLETE,
    INDEX_FILE,
    ShardIndex,
    ShardInfo,
    read_rows,
    write_index,
)
from datamodules.shard_writer import held, write_shard
from datamodules.tar_index import (
    CHECKSUM_BYTES,
    DAMAGED,
    REMAKE,
    Member,
    MemberIndex,
    ShardError,
    file_sha256,
    pack,
    scan,
    tars_in,
)

__all__ = ["ShardError", "ShardIndex", "ShardInfo", "index_shards", "map_shards", "verify", "write_shards"]


def write_shards(samples: Iterable[Sample], directory: str | Path, samples_per_shard: int = 1000) -> ShardIndex:
    """Write samples, in their order, as `00000.tar` ... with their index; the same samples give the same bytes.

    Args:
        samples: see `schema.Sample`; keys must be unique. Taken one at a time, so a generator is fine.
        directory: created if missing; must not hold shards yet.

    Raises:
        ShardError: the folder holds shards already, another process writes there, a key comes twice, or no sample came.
        SchemaError: a sample breaks the schema.
    """
    if samples_per_shard < 1:
        raise ShardError(f"samples_per_shard: expected at least 1, found {samples_per_shard}")
    directory = Path(directory)
    with held(directory):
        if (directory / INDEX_FILE).exists() or any(directory.glob("*.tar")):
            raise ShardError(f"{directory}: holds shards already; remove them or choose another folder")
        rows: list[ShardInfo] = []
        keys: set[str] = set()
        remaining = iter(samples)
        while chunk := list(islice(remaining, 1)):
            name = f"{len(rows):05d}.tar"
            unique = _chain_unique(chunk, islice(remaining, samples_per_shard - 1), keys)
            rows.append(write_shard(directory, name, ((sample["key"], encode(sample)) for sample in unique)))
        if not rows:
            raise ShardError(f"{directory}: expected at least one sample to write, found none")
        for row in rows:
            for path in (directory / row.name, (directory / row.name).with_suffix(".idx")):
                os.replace(f"{path}{INCOMPLETE}", path)
        write_index(directory, tuple(rows))
    return ShardIndex.load(directory)


def index_shards(directory: str | Path, index_directory: str | Path | None = None) -> ShardIndex:
    """Index the tars that lie in `directory` (webdataset or img2dataset shards), leaving them as they are.

    Damaged tars are indexed as far as they go and logged; their loss counts as bad samples (see `tar_index.scan`).
    An index that was there before is replaced at the end, or left as it was after an error.

    Raises:
        ShardError: no tar there, one that is compressed or no tar at all, a key that comes twice, or another process
            writes there.
    """
    directory, target = Path(directory), Path(index_directory or directory)
    tars = tars_in(directory)
    if not tars:
        found = "a file; give the folder that it is in" if directory.is_file() else "none"
        raise ShardError(f"{directory}: expected a folder of .tar files, found {found}")
    with held(target):
        rows = []
        indices = [(target / tar.name).with_suffix(f".idx{INCOMPLETE}") for tar in tars]
        for tar, path in zip(tars, indices, strict=True):
            packed, count = pack(scan(tar))
            path.write_bytes(packed)
            rows.append(ShardInfo(tar.name, count, tar.stat().st_size, file_sha256(tar)))
        refuse_repeated_keys(tars, indices)
        (target / INDEX_FILE).unlink(missing_ok=True)  # never beside member indices that are not its own
        for path in indices:
            os.replace(path, path.with_suffix(""))
        write_index(target, tuple(rows))
    return ShardIndex.load(directory, target)


def verify(directory: str | Path, index_directory: str | Path | None = None) -> list[str]:
    """Check every byte of every shard against the index; one line a problem, none when all is well.

    Args:
        directory: of the shards; or one tar, which is checked against the index of its folder, or, where there is no
            index, for being whole.
    """
    directory, target = Path(directory), Path(index_directory or directory)
    if directory.is_file():
        return _verify_tar(directory, Path(index_directory or directory.parent))
    try:
        index = ShardIndex(directory, target, read_rows(target))
    except ShardError as error:
        return [str(error)]
    named = {row.name for row in index.shards}
    problems = [
        f"{path}: not named in {INDEX_FILE}" for path in sorted(directory.glob("*.tar*")) if path.name not in named
    ]
    keys: set[str] = set()
    for row in index.shards:
        problems += _verify_shard(index, row, keys)
    return problems


def _verify_tar(tar: Path, target: Path) -> list[str]:
    try:
        if not (target / INDEX_FILE).is_file():
            with tar.open("rb") as file:
                found = [_verify_member(file, tar, tar.stat().st_size, member) for member in scan(tar)]
            return [problem for problem in found if problem] if found else [f"{tar}: no sample in it"]
        index = ShardIndex(tar.parent, target, read_rows(target))
        row = next((row for row in index.shards if row.name == tar.name), None)
        return [f"{tar}: not named in {target / INDEX_FILE}"] if row is None else list(_verify_shard(index, row, set()))
    except ShardError as error:
        return [str(error)]


def _verify_shard(index: ShardIndex, row: ShardInfo, keys: set[str]) -> Iterator[str]:
    path = index.tar_path(row.name)
    if not path.is_file():
        yield f"{path}: missing"
        return
    size, found = path.stat().st_size, ""
    if size != row.bytes:
        yield f"{path}: expected {row.bytes} bytes, found {size}"
    elif (found := file_sha256(path)) != row.sha256:
        yield f"{path}: expected sha256 {row.sha256[:16]}..., found {found[:16]}..."
    try:
        members = MemberIndex(index.member_path(row.name))
        if len(members) != row.count:
            yield f"{index.member_path(row.name)}: expected {row.count} samples, found {len(members)}"
        if size == row.bytes and found == row.sha256 and not _lists(index.member_path(row.name), path, row.of):
            yield f"{index.member_path(row.name)}: does not list what {row.name} holds; {REMAKE}"
            return
    except ShardError as error:
        yield str(error)
        return
    with path.open("rb") as file:
        for sample in range(len(members)):
            if (key := sample_key(members.key(sample))) in keys:
                yield f"{path}: key {key!r} comes more than once"
            keys.add(key)
            yield from (
                problem for member in members.members(sample) if (problem := _verify_member(file, path, size, member))
            )


def _lists(member_path: Path, path: Path, selected_of: int | None) -> bool:
    """Whether a member index says of a tar what reading the tar says, or (a selection) a part of its samples."""
    there = list(scan(path))
    packed, count = pack(there)
    if selected_of is None and member_path.read_bytes() in (packed, packed[:-CHECKSUM_BYTES]):
        return True  # the latter is from an earlier version
    index = MemberIndex(member_path)
    listed = [member for sample in range(len(index)) for member in index.members(sample)]
    return listed == there if selected_of is None else count == selected_of and set(there).issuperset(listed)


def _verify_member(file: BinaryIO, path: Path, size: int, member: Member) -> str:
    if member.field == DAMAGED:
        return f"{path}: damaged or cut off at byte {member.offset}; what followed is lost: fetch the file again"
    name = f"{path}: member {member.key}.{member.field}"
    if member.offset + member.size > size:
        found = max(0, size - member.offset)
        return f"{name}: expected {member.size} bytes, found {found} (truncated)"
    data = os.pread(file.fileno(), member.size, member.offset)
    return "" if zlib.crc32(data) == member.crc32 else f"{name}: wrong checksum"


def _chain_unique(first: list[Sample], rest: Iterable[Sample], keys: set[str]) -> Iterator[Sample]:
    for samples in (first, rest):
        for sample in samples:
            if sample.get("key") in keys:
                raise ShardError(f"key {sample['key']!r}: expected unique keys, this one comes twice")
            keys.add(sample.get("key", ""))
            yield sample


def main(arguments: list[str] | None = None) -> int:
    """Command line: `verify DIR|TAR` lists what is wrong (exit code 1), `index DIR` indexes existing tars."""
    parser = OptionParser(prog="python -m datamodules.shards", description=main.__doc__)
    parser.add_argument("command", choices=("verify", "index"))
    parser.add_argument("directory", type=Path, help="folder of shards; verify takes a single tar too")
    parser.add_argument("--index-directory", type=Path, help="where index.json and the .idx files are, if elsewhere")
    options = parser.parse_args(arguments)
    printable_output()
    try:
        if options.command == "index":
            index = index_shards(options.directory, options.index_directory)
            print(f"{options.directory}: indexed {len(index.shards)} shards, {len(index)} samples")
            return 0
        problems = verify(options.directory, options.index_directory)
        has_index = (
            not options.directory.is_file()
            or ((options.index_directory or options.directory.parent) / INDEX_FILE).is_file()
        )
        well = "every byte is as the index says" if has_index else f"whole; no {INDEX_FILE} to compare its bytes with"
        print("\n".join(problems) if problems else f"{options.directory}: {well}")
        return 1 if problems else 0
    except ShardError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    with interruptible():
        sys.exit(main())
