"""The binary member index of one tar shard: where each file of each sample lies, how long it is, and its CRC-32.

Layout, little endian: magic, three uint64 counts (samples, members, name bytes), the number of the first member of each
sample (uint32, one more than samples), one 24-byte row a member, then all member names one after another (UTF-8), and
the CRC-32 of all that (earlier files lack it).
A member named `KEY.FIELD` belongs to sample KEY; the key ends at the first dot of the file name, and the case of the
field does not count, as in webdataset.
"""

from __future__ import annotations

import hashlib
import logging
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

MAGIC = b"mmigidx1"
REMAKE = "remake it with `python -m datamodules.shards index DIR`"
ROW = np.dtype(
    [("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("name", "<u4"), ("name_len", "<u2"), ("key_len", "<u2")]
)
DAMAGED = "(damaged)"
"""Field of the member that stands for the unreadable rest of a tar; see `scan`."""
_HEADER_BYTES = len(MAGIC) + 3 * 8
CHECKSUM_BYTES = 4
_MAGIC = slice(257, 262)
# what `tarfile` raises on headers that are cut, or that say nonsense under a right checksum
_HEADER_ERRORS = (tarfile.TarError, ValueError, LookupError, ArithmeticError, MemoryError, RecursionError)
_log = logging.getLogger(__name__)


class ShardError(ValueError):
    """Shards or an index that cannot be used; one line says which file, what was expected and what to do."""


class Member(NamedTuple):
    """One file in a tar: its first byte is at `offset`, and it has `size` bytes of the checksum `crc32`.

    `field` is the name after the key's dot, in small letters.
    """

    key: str
    field: str
    offset: int
    size: int
    crc32: int


class MemberIndex:
    """The members of one shard by sample number, read from a memory-mapped index file when asked."""

    def __init__(self, path: Path | str, content: bytes | None = None) -> None:
        """Map the index file; `content` are its bytes where they were fetched, and `path` says from where.

        Raises:
            ShardError: the file is missing, is no member index, or does not have the length and order that it says.
        """
        self.path = path
        try:
            mapped = np.memmap(path, np.uint8, "r") if content is None else np.frombuffer(content, np.uint8)
            self._bytes = np.asarray(mapped)  # still mapped; plain views cost less
        except (OSError, ValueError) as error:
            raise ShardError(f"{path}: cannot read the member index ({error}); {REMAKE}") from error
        head = self._bytes[:_HEADER_BYTES].tobytes()
        samples, members, names = (int(n) for n in np.frombuffer(head[len(MAGIC) :].ljust(24, b"\0"), "<u8"))
        first_end = _HEADER_BYTES + 4 * (samples + 1)
        rows_end = first_end + ROW.itemsize * members
        if not head.startswith(MAGIC) or self._bytes.size - rows_end - names not in (0, CHECKSUM_BYTES):
            raise ShardError(f"{path}: not a complete member index; {REMAKE}")
        self.num_samples = samples
        self._first = self._bytes[_HEADER_BYTES:first_end].view("<u4")
        ascending = self._first[0] == 0 and self._first[-1] == members and (self._first[1:] > self._first[:-1]).all()
        if not ascending or not _has_checksum(self._bytes, rows_end + names):
            raise ShardError(f"{path}: a damaged member index; {REMAKE}")
        self._rows = self._bytes[first_end:rows_end].view(ROW)
        self._names = self._bytes[rows_end : rows_end + names]

    def __len__(self) -> int:
        return self.num_samples

    def members(self, sample: int) -> list[Member]:
        """The members of sample number `sample`, in the order of the tar."""
        first, end = self._first[sample : sample + 2].tolist()
        return [self._member(*row) for row in self._rows[first:end].tolist()]

    def key(self, sample: int) -> str:
        """The key of sample number `sample`."""
        _, _, _, name, _, key_len = self._rows[int(self._first[sample])].item()
        return self._names[name : name + key_len].tobytes().decode("utf-8", "backslashreplace")

    def _member(self, offset: int, size: int, crc32: int, name: int, name_len: int, key_len: int) -> Member:
        text = self._names[name : name + name_len].tobytes()
        key = text[:key_len].decode("utf-8", "backslashreplace")
        field = text[key_len + 1 :].decode("utf-8", "backslashreplace").lower()  # older indices have it as in the tar
        return Member(key, field, offset, size, crc32)


def split_name(name: str) -> tuple[str, str] | None:
    """`dir/KEY.FIELD` -> (`dir/KEY`, `field`) in small letters; None for a name without a field."""
    folder, slash, base = name.rpartition("/")
    key, dot, field = base.partition(".")
    return (folder + slash + key, field.lower()) if key and dot and field else None


def pack(members: Iterable[Member]) -> tuple[bytes, int]:
    """Members in the order of the tar -> (bytes of the index file, number of samples)."""
    first: list[int] = []
    rows: list[tuple[int, ...]] = []
    names = bytearray()
    last_key: str | None = None
    for member in members:
        if member.key != last_key:
            first.append(len(rows))
            last_key = member.key
        key, name = _name_bytes(member.key), _name_bytes(f"{member.key}.{member.field}")
        rows.append((member.offset, member.size, member.crc32, len(names), len(name), len(key)))
        names += name
    counts = np.array([len(first), len(rows), len(names)], "<u8")
    starts = np.array([*first, len(rows)], "<u4")
    packed = b"".join((MAGIC, counts.tobytes(), starts.tobytes(), np.array(rows, ROW).tobytes(), bytes(names)))
    return packed + zlib.crc32(packed).to_bytes(CHECKSUM_BYTES, "little"), len(first)


def _has_checksum(packed: np.ndarray, end: int) -> bool:
    """Whether the CRC-32 behind the first `end` bytes is theirs; files of earlier versions have none."""
    return packed.size == end or zlib.crc32(packed[:end]) == int.from_bytes(packed[end:].tobytes(), "little")


def _name_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")  # as `tarfile` decodes names that are not UTF-8


def scan(path: Path) -> Iterator[Member]:
    """The members of an existing tar, each read once for its checksum; damage is logged and counts, it never hides.

    A member that the end of the file cuts through is listed with its full size, so that reading it counts as a fault.
    Behind a header that cannot be read, or an end without its marker of zeros, nothing can be found any more: one more
    member (field `DAMAGED`), which nobody can read either, stands for all that is lost there.

    Raises:
        ShardError: the file is no plain tar (compressed tars give no random access), or holds a member of over 4 GiB.
    """
    end = 0
    with path.open("rb") as file:
        for info, behind in _headers(path, file):
            parts, end = split_name(info.name), behind
            if info.isreg() and parts is not None:
                file.seek(info.offset_data)
                yield Member(*parts, info.offset_data, info.size, zlib.crc32(file.read(info.size)))
    yield from _damage(path, end)


def _headers(path: Path, file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Each header up to the first that cannot be read or believed, and the byte behind its member."""
    head, size = file.read(tarfile.BLOCKSIZE), path.stat().st_size
    file.seek(0)
    try:
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the file is the caller's
    except _HEADER_ERRORS as error:
        if head[_MAGIC] != b"ustar":
            what_to_do = "unpack compressed tars first, fetch what is broken again or remove it"
            raise ShardError(f"{path}: not a plain tar file ({error}); {what_to_do}") from error
        return
    while (info := _next(tar)) is not None and info.size >= 0:
        if info.size >= 2**32:
            if info.offset_data + info.size > size:
                return  # a header that lies
            raise ShardError(f"{path}: member {info.name} has {info.size} bytes; at most 4 GiB are supported")
        yield info, tar.offset


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next header; None at the end, and where none can be read: then no marker of zeros is found there either."""
    try:
        return tar.next()
    except _HEADER_ERRORS:
        return None


def _damage(path: Path, end: int) -> Iterator[Member]:
    """What stands for the rest of a tar whose readable part ends at byte `end`, unless that is its end marker.

    `tarfile` takes a header that is cut or damaged for the end, and a tar without end marker for a whole one.
    """
    with path.open("rb") as file:
        file.seek(end)
        header = rest = file.read(tarfile.BLOCKSIZE)
        zeros = len(header) == tarfile.BLOCKSIZE
        while zeros and rest:
            zeros, rest = not rest.strip(b"\0"), file.read(2**20)
    if not zeros:
        _log.warning("%s: damaged or cut off at byte %d; samples behind it are lost: fetch the file again", path, end)
        wrong = zlib.crc32(header) ^ 1
        key = f"{path.name.replace('.', '_')} from byte {end} on"  # a dot would end it where it is copied to a tar
        yield Member(key, DAMAGED, end, tarfile.BLOCKSIZE, wrong)


def tars_in(folder: Path) -> list[Path]:
    """What a folder has of files called .tar, in any case, by name."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if path.suffix.lower() == ".tar" and path.is_file())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
