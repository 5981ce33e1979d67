"""Tools of the fault kinds: a kind, shards that hold one, and encoders for files that Pillow never writes."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.shards import index_shards
from tests.datamodules.range_server import Server

SIDE = 16
GOOD_BEFORE, GOOD_BEHIND = 8, 4
ODD = "odd"
Entry = tuple[tarfile.TarInfo, bytes]
Content = bytes | Callable[[], bytes]
"""Bytes of a file, or what makes them when they are needed."""


@dataclass(frozen=True)
class Service:
    """A web server between the shards and the stream, which does `misbehave`; and the stream's cache, if it has any."""

    misbehave: Callable[[Server], object]
    cache_bytes: int = 0
    file_limit: int = 0  # bytes that a file can have, as on a disk that is full


@dataclass(frozen=True)
class Kind:
    """One kind of damage.

    Attributes:
        name: what is wrong, as the table of docs/data.md says it.
        build: writes the shards to a folder and indexes them.
        reason: why the sample is skipped, or several joined by ", "; empty for what is readable.
        late: what happens to the first shard after the stream was opened.
        reading: for what is readable: what the table says that is done.
        expected: for what is readable: fields of the batch that the sample must have there; images uint8 [H,W,3],
            masks uint8 [H,W] of 0 and 1, absent fields None.
        tolerance: mean difference of the images in 1/255, for lossy formats.
        key: of the odd sample in the batch.
        lost: good samples that are lost with it at most. kept: the sample itself is read although something is lost.
        service: for what a web server in between does; else the shards are local.
    """

    name: str
    build: Callable[[Path], object]
    reason: str = ""
    late: Callable[[Path], object] | None = None
    reading: str = ""
    expected: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 0.0
    key: str = ODD
    lost: int = 0
    kept: bool = False
    service: Service | None = None


def gradient(seed: int = 0, side: int = SIDE) -> np.ndarray:
    """A smooth picture, uint8 [side,side,3], which JPEG keeps nearly as it is."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 3)).astype(float)
    down, across = np.mgrid[0:side, 0:side][..., None] / side
    return (corners[0] * (1 - down) * (1 - across) + corners[1] * down + corners[2] * across * (1 - down)).astype("u1")


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def jpeg(image: Image.Image | np.ndarray, **settings: Any) -> bytes:
    return encoded(image, "JPEG", quality=97, subsampling=0, **settings)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(width: int, height: int, depth: int, colour: int, rows: Iterable[bytes], *extra: bytes) -> bytes:
    """A PNG from its packed rows (without their filter bytes); `extra` chunks stand before the pixels."""
    squeeze = zlib.compressobj(1)
    packed = b"".join(squeeze.compress(b"\0" + row) for row in rows) + squeeze.flush()
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def good_files(number: int) -> dict[str, bytes]:
    return {
        "json": json.dumps({"instruction": f"make {number} red", "metadata": json.dumps({"number": number})}).encode(),
        "source.png": encoded(gradient(2 * number)),
        "target.png": encoded(gradient(2 * number + 1)),
    }


def good_entries(first: int, end: int) -> list[Entry]:
    return [entry for number in range(first, end) for entry in entries(f"{number:03d}", good_files(number))]


def entries(key: str, files: Mapping[str, Content]) -> list[Entry]:
    return [member(f"{key}.{name}", data() if callable(data) else data) for name, data in files.items()]


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Entry:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def write_tar(path: Path, members: Iterable[Entry], form: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))


def shards_around(folder: Path, odd: Iterable[Entry], form: int = tarfile.GNU_FORMAT) -> Path:
    """Two shards: six good samples, what is odd and two more good ones in the first, four good ones in the second.

    Returns the path of the first. Not indexed yet.
    """
    folder.mkdir()
    write_tar(folder / "0.tar", [*good_entries(0, 6), *odd, *good_entries(6, GOOD_BEFORE)], form)
    write_tar(folder / "1.tar", good_entries(GOOD_BEFORE, GOOD_BEFORE + GOOD_BEHIND))
    return folder / "0.tar"


def of_entries(odd: Iterable[Entry], form: int = tarfile.GNU_FORMAT) -> Callable[[Path], object]:
    """Shards with these members in the middle."""

    def build(folder: Path) -> None:
        shards_around(folder, odd, form)
        index_shards(folder)

    return build


def of_files(files: Mapping[str, Content]) -> Callable[[Path], object]:
    """Shards with one more sample in the middle."""
    return lambda folder: of_entries(entries(ODD, files))(folder)


def of_tar(damage: Callable[[Path], object], *, indexed: bool) -> Callable[[Path], object]:
    """Shards whose first tar is damaged, after it was indexed or before."""

    def build(folder: Path) -> None:
        path = shards_around(folder, entries(ODD, good_files(99)))
        if indexed:
            index_shards(folder)
        damage(path)
        if not indexed:
            index_shards(folder)

    return build
