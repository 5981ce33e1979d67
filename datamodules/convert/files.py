"""Reading what others made: nothing outside of the source, nothing beyond measure, no format that runs programs."""

from __future__ import annotations

import json
import lzma
import re
import stat
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from datamodules.convert.source import ConversionError
from datamodules.faults import BadSample

MAX_FILE_BYTES = 256 * 2**20
"""More than any picture or text of a sample has; what is larger is not read."""
MAX_JSON_BYTES = 16 * 2**20
"""More than the JSON of any sample has; parsed, it can take thirty times its bytes of memory."""
# what `zipfile` and its decompressors raise on damaged files, beyond its own BadZipFile
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(OSError, EOFError, ValueError, RuntimeError, MemoryError),
)
_NOT_IN_KEYS = re.compile(r"[^\w-]", re.ASCII)


def key_part(text: str) -> str:
    """A name as part of a key: all but letters, digits, `_` and `-` written as in URLs (`a.b` -> `a%2Eb`)."""
    return _NOT_IN_KEYS.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "replace")), text)


def inside(root: Path, name: str) -> Path:
    """The path of `name` below `root`, links followed.

    Raises:
        BadSample: "outside", when it leads out of `root`; "missing", when nothing is there or no path can be so.
    """
    try:
        path = (root / name).resolve()
        there = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL byte, a circle of links
        raise BadSample("missing", f"{name[:200]!r}: no file name ({error})") from error
    if not path.is_relative_to(root.resolve()):
        raise BadSample("outside", f"{name!r} leads to {path}, outside of {root}")
    if not there:
        raise BadSample("missing", f"{name!r}: no such file in {root}")
    return path


def read_file(root: Path, name: str, most: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a file below `root`.

    Raises:
        BadSample: as in `inside`; "large", beyond `most` bytes.
    """
    path = inside(root, name)
    try:
        if (size := path.stat().st_size) > most:
            raise BadSample("large", f"{name!r}: {size} bytes, at most {most} are read")
        return path.read_bytes()
    except OSError as error:
        raise BadSample("missing", f"{name!r}: {error}") from error


def file_size(root: Path, name: str) -> int:
    """Bytes of a file below `root`, 0 if there is none."""
    try:
        return inside(root, name).stat().st_size
    except (BadSample, OSError):
        return 0


@lru_cache(maxsize=8)
def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip file for reading, kept open.

    Raises:
        ConversionError: it is none, or damaged.
    """
    try:
        return zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise ConversionError(f"{path}: cannot be read as a zip file ({error}); fetch it again") from error


def read_entry(path: Path, name: str, most: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of an entry of a zip file; nothing is ever unpacked to a place that the entry chooses.

    Raises:
        BadSample: "missing", "outside" (a link), "large" (by what it unpacks to) or "archive".
    """
    archive = open_zip(path)
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise BadSample("missing", f"{name!r}: no such entry in {path.name}") from error
    if stat.S_ISLNK(info.external_attr >> 16):
        raise BadSample("outside", f"{name!r} in {path.name} is a link")
    if info.file_size > most:
        raise BadSample("large", f"{name!r}: {info.file_size} bytes, at most {most} are read")
    try:
        return archive.read(info)
    except _ZIP_ERRORS as error:
        raise BadSample("archive", f"{name!r} in {path.name}: {error}") from error


def read_found(path: str) -> bytes:
    """The bytes of a file that `datasets` found: local, or in a zip file (`zip://NAME::ARCHIVE`).

    Raises:
        BadSample: "missing", or "large".
    """
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (*_ZIP_ERRORS, KeyError) as error:
        raise BadSample("missing", f"{path[:200]!r}: cannot be read ({error})") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadSample("large", f"{path[:200]!r}: at most {MAX_FILE_BYTES} bytes are read")
    return data


def parse_json(data: bytes, what: str) -> Any:
    """JSON, NaN and infinities (some annotations have them) as null.

    Raises:
        BadSample: "json".
    """
    try:
        return json.loads(data, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise BadSample("json", f"{what}: {error}") from error


def read_annotations(path: Path, kind: type = list) -> Any:
    """A JSON file that the whole conversion rests on.

    Raises:
        ConversionError: it is missing, no JSON, or holds something else than a `kind`.
    """
    try:
        content = parse_json(path.read_bytes(), path.name)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error})") from error
    except BadSample as bad:
        raise ConversionError(f"{path}: not JSON ({bad.detail}); fetch it again") from bad
    if not isinstance(content, kind):
        raise ConversionError(f"{path}: expected a JSON {kind.__name__}, found {type(content).__name__}")
    return content


def existing_folder(source: str) -> Path:
    """The folder that a source names.

    Raises:
        ConversionError: there is none.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise ConversionError(f"--source {source}: expected a folder, found {'a file' if folder.exists() else 'none'}")
    return folder
