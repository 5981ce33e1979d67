"""Files of one sample in a tar -> a sample (see `encode` for the way there), and the reader that fetches them.

Two layouts: ours (`source.png`, `json`, ...), and img2dataset's (`jpg`, `txt`, `json`), whose image is the target, its
text the target's caption and its JSON metadata. Whatever is wrong with the bytes becomes a `BadSample`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import struct
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO

from PIL import Image, ImageOps

from datamodules.faults import BadSample
from datamodules.keys import sample_key
from datamodules.schema import IMAGE_FIELDS, MASK_FIELDS, Sample, SchemaError, validate
from datamodules.shard_index import INDEX_FILE, ShardIndex
from datamodules.tar_index import REMAKE, MemberIndex, ShardError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64 * 2**20
_SUFFIX = re.compile(r"\.(?:png|jpe?g|webp)$", re.IGNORECASE)
_PLAIN_IMAGES = ("jpg", "jpeg", "png", "webp")
_NUMBERED = re.compile(r"(concept|attachment)(\d+)")
# what Pillow's decoders raise on damaged files, beyond its own UnidentifiedImageError (an OSError)
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error)
_log = logging.getLogger(__name__)


class ShardReader:
    """Reads one sample at a time from anywhere in the shards, keeping the last `keep_open` shards open."""

    def __init__(self, index: ShardIndex, keep_open: int = 64) -> None:
        self._index = index
        self._keep_open = keep_open
        self._open: OrderedDict[int, tuple[BinaryIO, MemberIndex]] = OrderedDict()

    def key(self, shard: int, row: int) -> str:
        """The name in the tar of sample `row` of shard `shard`, folders included.

        Raises:
            ShardError: the shard's member index is missing, damaged, or another than `index.json` means.
        """
        return self._shard(shard)[1].key(row)

    def read(self, shard: int, row: int) -> dict[str, memoryview]:
        """Name after the key's dot -> bytes, every checksum compared.

        Raises:
            BadSample: the tar is too short ("truncated") or its bytes have changed ("checksum").
            ShardError: as in `key`.
        """
        file, index = self._shard(shard)
        members = index.members(row)
        start = members[0].offset
        length = members[-1].offset + members[-1].size - start
        data = memoryview(os.pread(file.fileno(), length, start))
        files: dict[str, memoryview] = {}
        for member in members:
            content = data[member.offset - start : member.offset - start + member.size]
            if len(content) != member.size:
                raise BadSample("truncated", f"{member.field}: expected {member.size} bytes, found {len(content)}")
            if zlib.crc32(content) != member.crc32:
                raise BadSample("checksum", f"{member.field}: wrong checksum")
            files[member.field] = content
        return files

    def close(self) -> None:
        """Close every open shard; the reader can be used again."""
        while self._open:
            self._open.popitem()[1][0].close()

    def _shard(self, number: int) -> tuple[BinaryIO, MemberIndex]:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) >= self._keep_open:
                self._open.popitem(last=False)[1][0].close()
            self._open[number] = self._open_shard(number)
        return self._open[number]

    def _open_shard(self, number: int) -> tuple[BinaryIO, MemberIndex]:
        row = self._index.shards[number]
        path = self._index.member_path(row.name)
        members = MemberIndex(path)
        if len(members) != row.count:
            raise ShardError(
                f"{path}: lists {len(members)} samples where {INDEX_FILE} counts {row.count}; one is stale: {REMAKE}"
            )
        file = self._index.tar_path(row.name).open("rb", buffering=0)
        if (size := os.fstat(file.fileno()).st_size) != row.bytes:  # no error: each sample that suffered is a fault
            _log.warning("%s: expected %d bytes, found %d", self._index.tar_path(row.name), row.bytes, size)
        return file, members

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # open files do not travel to spawned workers

    def __del__(self) -> None:
        self.close()


def decode(key: str, files: Mapping[str, bytes | memoryview]) -> Sample:
    """Decode one sample: images to PIL RGB, masks to PIL "L", JSON to texts, concepts, attachments and metadata.

    Args:
        key: the sample's name in the tar; `sample_key` of it becomes the key, whatever the JSON says.
        files: name after the key's dot -> bytes.

    Raises:
        BadSample: with the reason (a key of `faults.REASONS`) and the finding.
    """
    by_field = {_SUFFIX.sub("", name): (name, data) for name, data in files.items()}
    sample: dict[str, Any] = {"key": sample_key(key)}
    plain = next((name for name in _PLAIN_IMAGES if name in files), None)
    record = _json(files["json"]) if "json" in files else {}
    if plain is None and "txt" not in files:
        sample |= _record_fields(record)
    else:
        sample |= {"target": _image("target", files[plain])} if plain else {}
        sample |= {
            "metadata": record,
            "target_caption": _text(files["txt"]) if "txt" in files else record.get("caption") or "",
        }
    for field in (*IMAGE_FIELDS, *MASK_FIELDS):
        if field in by_field:
            sample[field] = _image(field, by_field[field][1], mask=field in MASK_FIELDS)
    for field, (name, data) in by_field.items():
        if match := _NUMBERED.fullmatch(field.partition(".")[0]):
            _add_numbered(sample, match[1], int(match[2]), name, data)
    try:
        validate(sample)
    except SchemaError as error:
        raise BadSample("field", str(error)) from error
    return sample  # type: ignore[return-value]


def _json(data: bytes | memoryview) -> dict[str, Any]:
    try:
        record = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:  # the latter from brackets nested too deeply
        raise BadSample("json", f"json: {error}") from error
    if not isinstance(record, dict):
        raise BadSample("field", f"json: expected an object, found {type(record).__name__}")
    return record


def _text(data: bytes | memoryview) -> str:
    try:
        return bytes(data).decode().strip()
    except UnicodeDecodeError as error:
        raise BadSample("field", f"txt: expected UTF-8 text ({error})") from error


def _record_fields(record: dict[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in record.items() if value is not None and name != "key"}
    if isinstance(fields.get("metadata"), str):
        fields["metadata"] = _json(fields["metadata"].encode())
    if isinstance(fields.get("concepts"), list):
        fields["concepts"] = [{"phrase": phrase} for phrase in fields["concepts"]]
    return fields


def _add_numbered(sample: dict[str, Any], kind: str, number: int, name: str, data: bytes | memoryview) -> None:
    entries = sample.get(f"{kind}s")
    if not isinstance(entries, list) or number >= len(entries) or not isinstance(entries[number], dict):
        raise BadSample("field", f"{name}: the JSON's {kind}s have no such entry")
    if kind == "concept":
        entries[number]["mask"] = _image(f"concept{number}", data, mask=True)
    elif _SUFFIX.search(name):
        entries[number]["data"] = _image(f"attachment{number}", data)
    else:
        entries[number] |= {"data": bytes(data), "format": name.partition(".")[2]}


def _image(field: str, data: bytes | memoryview, mask: bool = False) -> Image.Image:
    """Encoded image -> PIL RGB (or "L"): transparency over white, 16 bits scaled to 8, EXIF orientation applied."""
    if len(data) == 0:
        raise BadSample("empty", f"{field}: no bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise BadSample("bomb", f"{field}: {image.width}x{image.height} pixels, at most {MAX_PIXELS} are read")
        if 0 in image.size:
            raise BadSample("empty", f"{field}: an image without pixels")
        image.load()
        if "exif" in image.info:
            image = ImageOps.exif_transpose(image)
        return _to_mode(image, "L" if mask else "RGB")
    except Image.DecompressionBombError as error:
        raise BadSample("bomb", f"{field}: {error}") from error
    except _DECODER_ERRORS as error:
        raise BadSample("image", f"{field}: {error}") from error


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I"):  # 16-bit PNG; "I" is how some Pillow versions open it
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    elif mode == "RGB" and image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert(mode)
