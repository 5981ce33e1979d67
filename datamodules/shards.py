"""Tar shards in the schema: write, index, verify. `python -m datamodules.shards verify DIR`.

A folder of shards is plain tar files, `index.json` (see `shard_index`) and one small `NAME.idx` a shard (`tar_index`).
Tars are written under a temporary name and renamed at the end, `index.json` last: a folder without it is not complete.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from datamodules.encode import encode
from datamodules.schema import Sample
from datamodules.shard_index import (
    INCOMPLETE,
    INDEX_FILE,
    ShardIndex,
    ShardInfo,
    read_rows,
    replace_file,
    write_index,
)
from datamodules.tar_index import Member, MemberIndex, ShardError, file_sha256, pack, scan

__all__ = ["ShardError", "ShardIndex", "ShardInfo", "index_shards", "verify", "write_shards"]


def write_shards(
    samples: Iterable[Sample], directory: str | Path, samples_per_shard: int = 1000, prefix: str = ""
) -> ShardIndex:
    """Write samples, in their order, as `PREFIX00000.tar` ... with their index; the same samples give the same bytes.

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
    with _writing(directory):
        rows: list[ShardInfo] = []
        keys: set[str] = set()
        remaining = iter(samples)
        while chunk := list(islice(remaining, 1)):
            name = f"{prefix}{len(rows):05d}.tar"
            rows.append(
                _write_shard(directory, name, _chain_unique(chunk, islice(remaining, samples_per_shard - 1), keys))
            )
        if not rows:
            raise ShardError(f"{directory}: expected at least one sample to write, found none")
        for row in rows:
            for path in (directory / row.name, (directory / row.name).with_suffix(".idx")):
                os.replace(f"{path}{INCOMPLETE}", path)
        write_index(directory, tuple(rows))
    return ShardIndex.load(directory)


def index_shards(directory: str | Path, index_directory: str | Path | None = None) -> ShardIndex:
    """Index the tars that lie in `directory` (webdataset or img2dataset shards), leaving them as they are.

    Raises:
        ShardError: no tar there, or one that is compressed or no tar at all.
    """
    directory, target = Path(directory), Path(index_directory or directory)
    tars = sorted(directory.glob("*.tar"))
    if not tars:
        raise ShardError(f"{directory}: expected .tar files, found none")
    target.mkdir(parents=True, exist_ok=True)
    rows = []
    for tar in tars:
        packed, count = pack(scan(tar))
        replace_file((target / tar.name).with_suffix(".idx"), packed)
        rows.append(ShardInfo(tar.name, count, tar.stat().st_size, file_sha256(tar)))
    write_index(target, tuple(rows))
    return ShardIndex.load(directory, target)


def verify(directory: str | Path, index_directory: str | Path | None = None) -> list[str]:
    """Check every byte of every shard against the index; one line a problem, none when all is well."""
    directory, target = Path(directory), Path(index_directory or directory)
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


def _verify_shard(index: ShardIndex, row: ShardInfo, keys: set[str]) -> Iterator[str]:
    path = index.tar_path(row.name)
    if not path.is_file():
        yield f"{path}: missing"
        return
    if (size := path.stat().st_size) != row.bytes:
        yield f"{path}: expected {row.bytes} bytes, found {size}"
    elif (found := file_sha256(path)) != row.sha256:
        yield f"{path}: expected sha256 {row.sha256[:16]}..., found {found[:16]}..."
    try:
        members = MemberIndex(index.member_path(row.name))
    except ShardError as error:
        yield str(error)
        return
    if len(members) != row.count:
        yield f"{index.member_path(row.name)}: expected {row.count} samples, found {len(members)}"
    with path.open("rb") as file:
        for sample in range(len(members)):
            if (key := members.key(sample)) in keys:
                yield f"{path}: key {key!r} comes more than once"
            keys.add(key)
            yield from (
                problem for member in members.members(sample) if (problem := _verify_member(file, path, member))
            )


def _verify_member(file: BinaryIO, path: Path, member: Member) -> str:
    data = os.pread(file.fileno(), member.size, member.offset)
    name = f"{path}: member {member.key}.{member.field}"
    if len(data) != member.size:
        return f"{name}: expected {member.size} bytes, found {len(data)} (truncated)"
    return "" if zlib.crc32(data) == member.crc32 else f"{name}: wrong checksum"


def _chain_unique(first: list[Sample], rest: Iterable[Sample], keys: set[str]) -> Iterator[Sample]:
    for samples in (first, rest):
        for sample in samples:
            if sample.get("key") in keys:
                raise ShardError(f"key {sample['key']!r}: expected unique keys, this one comes twice")
            keys.add(sample.get("key", ""))
            yield sample


def _write_shard(directory: Path, name: str, samples: Iterable[Sample]) -> ShardInfo:
    members: list[Member] = []
    digest, offset = hashlib.sha256(), 0
    with (directory / f"{name}{INCOMPLETE}").open("wb") as file:

        def put(data: bytes) -> None:
            nonlocal offset
            file.write(data)
            digest.update(data)
            offset += len(data)

        for sample in samples:
            for field, data in encode(sample).items():
                put(_tar_header(f"{sample['key']}.{field}", len(data)))
                members.append(Member(sample["key"], field, offset, len(data), zlib.crc32(data)))
                put(data + bytes(-len(data) % tarfile.BLOCKSIZE))
        put(bytes(2 * tarfile.BLOCKSIZE))
        put(bytes(-offset % tarfile.RECORDSIZE))
        file.flush()
        os.fsync(file.fileno())
    packed, count = pack(members)
    (directory / name).with_suffix(f".idx{INCOMPLETE}").write_bytes(packed)
    return ShardInfo(name, count, offset, digest.hexdigest())


def _tar_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    try:
        return info.tobuf(tarfile.USTAR_FORMAT)
    except ValueError as error:
        raise ShardError(f"key of member {name!r}: expected a name of at most 100 bytes ({error})") from error


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Hold the folder for one writer; leave no temporary file behind, whatever happened before or happens now."""
    directory.mkdir(parents=True, exist_ok=True)
    folder = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ShardError(f"{directory}: another process is writing shards here; wait for it") from error
        if (directory / INDEX_FILE).exists() or any(directory.glob("*.tar")):
            raise ShardError(f"{directory}: holds shards already; remove them or choose another folder")
        _remove_incomplete(directory)
        try:
            yield
        finally:
            _remove_incomplete(directory)
    finally:
        os.close(folder)


def _remove_incomplete(directory: Path) -> None:
    for path in directory.glob(f"*{INCOMPLETE}"):
        path.unlink()


def main(arguments: list[str] | None = None) -> int:
    """Command line: `verify DIR` lists what is wrong (exit code 1), `index DIR` indexes existing tars."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.shards", description=main.__doc__)
    parser.add_argument("command", choices=("verify", "index"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--index-directory", type=Path, help="where index.json and the .idx files are, if elsewhere")
    options = parser.parse_args(arguments)
    try:
        if options.command == "index":
            index = index_shards(options.directory, options.index_directory)
            print(f"{options.directory}: indexed {len(index.shards)} shards, {len(index)} samples")
            return 0
        problems = verify(options.directory, options.index_directory)
        print("\n".join(problems) if problems else f"{options.directory}: every byte is as the index says")
        return 1 if problems else 0
    except ShardError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
