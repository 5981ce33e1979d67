"""Fault kinds: tars, their members, and what they hold besides data."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.datamodules.damage import (
    ODD,
    Entry,
    Kind,
    entries,
    good_files,
    gradient,
    member,
    of_entries,
    of_tar,
    write_tar,
)

FILES = good_files(99)
EXPECTED = {"source": gradient(198), "target": gradient(199), "instruction": "make 99 red", "metadata": {"number": 99}}


class Payload:
    """What unpickling would execute: it makes the folder `executed` where the process runs."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, ("executed",)


def payload(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "pth":
        torch.save(Payload(), buffer)
    elif kind == "npy":
        np.save(buffer, np.array([Payload()], dtype=object), allow_pickle=True)
    else:
        pickle.dump(Payload(), buffer)
    return buffer.getvalue()


def late(name: str, damage: Callable[[Path], object]) -> Kind:
    """Damage that comes while the shards are being read."""
    return Kind(name, of_tar(lambda _: None, indexed=True), "missing", damage, lost=8)


def odd_place(path: Path) -> int:
    """Byte of the odd sample's first header; the tar is not necessarily indexed."""
    with tarfile.open(path, "r:") as tar:
        return tar.getmember(f"{ODD}.json").offset


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def blank(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place : place + 512] = bytes(512)
    path.write_bytes(data)


def append(path: Path) -> None:
    """Three samples more than the index says, as an updated download has."""
    with tarfile.open(path, "a") as tar:
        for number in range(100, 103):
            for info, data in entries(f"{number}", good_files(number)):
                tar.addfile(info, io.BytesIO(data))


def shorten(path: Path) -> None:
    """A whole tar, of fewer samples than the index says."""
    with tarfile.open(path, "r:") as tar:
        kept = [(info, tar.extractfile(info).read()) for info in tar if info.name < ODD]
    write_tar(path, kept[:15])


def with_size(size: int) -> Callable[[Path], None]:
    """The odd sample's JSON says another size, in base 256, under a right checksum."""

    def damage(path: Path) -> None:
        place = odd_place(path)
        data = bytearray(path.read_bytes())
        header = data[place : place + 512]
        header[124:136] = (b"\x80" if size >= 0 else b"\xff") + size.to_bytes(11, "big", signed=True)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        data[place : place + 512] = header
        path.write_bytes(data)

    return damage


def with_pax(text: bytes) -> Callable[[Path], None]:
    """The odd sample's JSON has this in a pax header."""

    def damage(path: Path) -> None:
        info = tarfile.TarInfo("./PaxHeader")
        info.type, info.size = tarfile.XHDTYPE, len(text)
        data, place = path.read_bytes(), odd_place(path)
        path.write_bytes(data[:place] + info.tobuf() + text.ljust(512, b"\0") + data[place:])

    return damage


def read(
    name: str, reading: str, odd: list[Entry], form: int = tarfile.GNU_FORMAT, key: str = ODD, **more: object
) -> Kind:
    return Kind(name, of_entries(odd, form), "", None, reading, {**EXPECTED, **more}, key=key)


def link(name: str, kind: bytes, to: str = "") -> Kind:
    """A link or a device in the place of the source."""
    files = {field: data for field, data in FILES.items() if field != "source.png"}
    odd = [*entries(ODD, files), member(f"{ODD}.source.png", b"", kind, to)]
    return read(name, "not followed; the sample has the rest", odd, source=None)


def before(name: str, damage: Callable[[Path], object], reason: str, lost: int, kept: bool = False) -> Kind:
    """Damage that was there when the shard was indexed."""
    return Kind(name, of_tar(damage, indexed=False), reason, lost=lost, kept=kept)


def after(name: str, damage: Callable[[Path], object], reason: str, lost: int = 8) -> Kind:
    """Damage that came after the shard was indexed."""
    return Kind(name, of_tar(damage, indexed=True), reason, lost=lost)


def named(prefix: str) -> list[Entry]:
    return entries(prefix, FILES)


def cut(path: Path) -> None:
    os.truncate(path, odd_place(path) + 530)


def without_end(path: Path) -> None:
    path.write_bytes(path.read_bytes().rstrip(b"\0"))


def replace_with_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


PICKLED = {**FILES, "json": payload("pkl")}
PICKLED_IMAGE = {**FILES, "source.png": payload("pkl")}
FOLDERS = [member("odd", kind=tarfile.DIRTYPE), *named(ODD), member("d.json", kind=tarfile.DIRTYPE)]
NAMELESS = [member("README", b"x"), member("._odd.json", b"x")]

KINDS = [
    after("tar cut off after it was indexed", cut, "truncated", 2),
    before("tar cut off before it was indexed", cut, "truncated", 2),
    before("tar without its end marker", without_end, "truncated", 0, kept=True),
    after("shard of no bytes", lambda path: os.truncate(path, 0), "truncated"),
    after("shard shorter than its index says", shorten, "checksum, truncated"),
    Kind("shard longer than its index says", of_tar(append, indexed=True), "", None, "what the index names", EXPECTED),
    late("shard that vanishes while it is in use", lambda path: path.unlink()),
    late("folder in the place of a shard", replace_with_folder),
    after("bytes flipped after it was indexed", lambda path: flip(path, odd_place(path) + 520), "checksum", 0),
    before("bytes flipped in a header, then indexed", lambda path: flip(path, odd_place(path) + 3), "checksum", 2),
    before("header blanked, then indexed", lambda path: blank(path, odd_place(path)), "checksum", 2),
    before("first header damaged, then indexed", lambda path: flip(path, 3), "checksum", 8),
    before("member that claims 3 GB", with_size(3 * 2**30), "bomb, truncated", 2),
    before("member that claims 9 EB", with_size(2**63), "checksum", 2),
    before("member that claims less than nothing", with_size(-512), "checksum", 2),
    before("pax header that says nonsense", with_pax(b"22 GNU.sparse.map=a,b\n"), "checksum", 2),
    read("names that lead out (`../`)", "escaped in the key", named("../../odd"), key="%2E%2E%2F%2E%2E%2Fodd"),
    read("absolute names", "escaped in the key", named("/etc/cron.d/odd"), key="%2Fetc%2Fcron%2Ed%2Fodd"),
    read("names in folders with dots", "escaped in the key", named("v1.0/odd"), key="v1%2E0%2Fodd"),
    read("names with backslashes", "escaped in the key", named("a\\odd"), key="a%5Codd"),
    read("names that are not UTF-8", "escaped in the key", named("caf\udce9"), key="caf%5Cxe9"),
    Kind("keys with dots (the key ends at the first)", of_entries(named("1.5")), "field"),
    read("GNU long names", "as any name", named("n" * 300), key="n" * 300),
    read("pax headers", "as any name", named("é" * 200), tarfile.PAX_FORMAT, key="é" * 200),
    read("directories", "passed over", FOLDERS),
    link("symbolic link to a file outside", tarfile.SYMTYPE, "/etc/passwd"),
    link("hard link to another member", tarfile.LNKTYPE, "000.source.png"),
    link("device", tarfile.CHRTYPE),
    link("named pipe", tarfile.FIFOTYPE),
    read("pickle (`.pkl`)", "never opened", [*named(ODD), member("odd.pkl", payload("pkl"))]),
    read("PyTorch checkpoint (`.pth`)", "never opened", [*named(ODD), member("odd.pth", payload("pth"))]),
    read("numpy array of objects (`.npy`)", "never opened", [*named(ODD), member("odd.npy", payload("npy"))]),
    Kind("pickle called .json", of_entries(entries(ODD, PICKLED)), "json"),
    Kind("pickle called .png", of_entries(entries(ODD, PICKLED_IMAGE)), "format"),
    read("other members of a sample", "passed over", [*named(ODD), member("odd.cls", b"3"), member("odd.mp3", b"ID3")]),
    read("files without a key or a field", "passed over", [*NAMELESS, *named(ODD)]),
    Kind("sample of nothing that the schema knows", of_entries([member("odd.cls", b"3")]), "field"),
]
