"""Files of one sample in a tar -> a sample (see `encode` for the way there), and the reader that fetches them.

Two layouts: ours (`source.png`, `json`, ...), and img2dataset's (`jpg`, `txt`, `json`), whose image is the target, its
text the target's caption and its JSON metadata. Whatever is wrong with the bytes becomes a `BadSample`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO

from datamodules.faults import BadSample
from datamodules.images import decode_image
from datamodules.keys import sample_key
from datamodules.schema import IMAGE_FIELDS, MASK_FIELDS, Sample, SchemaError, texts, validate
from datamodules.shard_index import INDEX_FILE, ShardIndex
from datamodules.tar_index import REMAKE, MemberIndex, ShardError

MAX_JSON_BYTES = 16 * 2**20
MAX_TEXT = 100_000
"""Characters of the longest text that is read; beyond that it is no caption, and tokenisers take minutes."""
MAX_ENTRIES = 64
"""Concepts or attachments of one sample; a batch holds room for the most that one of its samples has."""
MAX_SAMPLE_BYTES = 2**30
_SUFFIX = re.compile(r"\.(?:png|jpe?g|webp)$", re.IGNORECASE)
_PLAIN_IMAGES = ("jpg", "jpeg", "png", "webp")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMBERED = re.compile(r"(concept|attachment)(\d+)")
_log = logging.getLogger(__name__)


_OpenShard = tuple[BinaryIO | OSError, MemberIndex]
"""A tar, or why it cannot be opened, and what is in it."""


class ShardReader:
    """Reads one sample at a time from anywhere in the shards, keeping the last `keep_open` shards open."""

    def __init__(self, index: ShardIndex, keep_open: int = 64) -> None:
        self._index = index
        self._keep_open = keep_open
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    def key(self, shard: int, row: int) -> str:
        """The name in the tar of sample `row` of shard `shard`, folders included.

        Raises:
            ShardError: the shard's member index is missing, damaged, or another than `index.json` means.
        """
        return self._shard(shard)[1].key(row)

    def read(self, shard: int, row: int) -> dict[str, memoryview]:
        """Name after the key's dot -> bytes, every checksum compared.

        Raises:
            BadSample: the tar cannot be read ("missing") or is too short ("truncated"), its bytes have changed
                ("checksum"), a member comes twice ("repeated"), or they are far too many ("bomb").
            ShardError: as in `key`.
        """
        file, index = self._shard(shard)
        if isinstance(file, OSError):
            raise BadSample("missing", str(file))
        members = index.members(row)
        start = members[0].offset
        length = members[-1].offset + members[-1].size - start
        if length > MAX_SAMPLE_BYTES:
            raise BadSample("bomb", f"{length} bytes in one sample, at most {MAX_SAMPLE_BYTES} are read")
        try:
            data = memoryview(os.pread(file.fileno(), length, start))
        except OSError as error:
            raise BadSample("missing", f"{self._index.shards[shard].name}: {error}") from error
        files: dict[str, memoryview] = {}
        for member in members:
            content = data[member.offset - start : member.offset - start + member.size]
            if len(content) != member.size:
                raise BadSample("truncated", f"{member.field}: expected {member.size} bytes, found {len(content)}")
            if zlib.crc32(content) != member.crc32:
                raise BadSample("checksum", f"{member.field}: wrong checksum")
            if member.field in files:
                raise BadSample("repeated", f"{member.field}: comes twice in the tar")
            files[member.field] = content
        return files

    def close(self) -> None:
        """Close every open shard; the reader can be used again."""
        while self._open:
            _close(self._open.popitem()[1])

    def _shard(self, number: int) -> _OpenShard:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) >= self._keep_open:
                _close(self._open.popitem(last=False)[1])
            self._open[number] = self._open_shard(number)
        return self._open[number]

    def _open_shard(self, number: int) -> _OpenShard:
        row = self._index.shards[number]
        path = self._index.member_path(row.name)
        members = MemberIndex(path)
        if len(members) != row.count:
            raise ShardError(
                f"{path}: lists {len(members)} samples where {INDEX_FILE} counts {row.count}; one is stale: {REMAKE}"
            )
        try:
            file = self._index.tar_path(row.name).open("rb", buffering=0)
        except OSError as error:  # no error here either: each of its samples is a fault
            return error, members
        if (size := os.fstat(file.fileno()).st_size) != row.bytes:  # no error: each sample that suffered is a fault
            _log.warning("%s: expected %d bytes, found %d", self._index.tar_path(row.name), row.bytes, size)
        return file, members

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # open files do not travel to spawned workers

    def __del__(self) -> None:
        self.close()


def _close(shard: _OpenShard) -> None:
    if not isinstance(shard[0], OSError):
        shard[0].close()


def decode(key: str, files: Mapping[str, bytes | memoryview]) -> Sample:
    """Decode one sample: images to PIL RGB, masks to PIL "L", JSON to texts, concepts, attachments and metadata.

    Args:
        key: the sample's name in the tar; `sample_key` of it becomes the key, whatever the JSON says.
        files: name after the key's dot -> bytes.

    Raises:
        BadSample: with the reason (a key of `faults.REASONS`) and the finding.
    """
    by_field: dict[str, tuple[str, bytes | memoryview]] = {}
    for name, data in files.items():
        field = _SUFFIX.sub("", name)
        if field in by_field and _is_known(field):
            raise BadSample("repeated", f"{field}: given as {by_field[field][0]} and as {name}")
        by_field[field] = name, data
    sample: dict[str, Any] = {"key": sample_key(key)}
    plain = next((name for name in _PLAIN_IMAGES if name in files), None)
    record = _json(files["json"]) if "json" in files else {}
    if plain is None and "txt" not in files:
        sample |= _record_fields(record)
    else:
        sample |= {"target": decode_image("target", files[plain])} if plain else {}
        sample |= {
            "metadata": record,
            "target_caption": _text(files["txt"]) if "txt" in files else record.get("caption") or "",
        }
    for field in (*IMAGE_FIELDS, *MASK_FIELDS):
        if field in by_field:
            sample[field] = decode_image(field, by_field[field][1], mask=field in MASK_FIELDS)
    for field, (name, data) in by_field.items():
        if match := _NUMBERED.fullmatch(field.partition(".")[0]):
            _add_numbered(sample, match[1], int(match[2]), name, data)
    try:
        validate(sample)
    except SchemaError as error:
        raise BadSample("field", str(error)) from error
    for text in (sample.get("edit_type", ""), *texts(sample)):
        _check_text(text)
    return sample  # type: ignore[return-value]


def _is_known(field: str) -> bool:
    return field in (*IMAGE_FIELDS, *MASK_FIELDS) or _NUMBERED.fullmatch(field) is not None


def _json(data: bytes | memoryview) -> dict[str, Any]:
    """NaN and Infinity, which JSON does not have but img2dataset writes where a column is empty, become None."""
    if len(data) == 0:
        raise BadSample("empty", "json: no bytes")
    if len(data) > MAX_JSON_BYTES:
        raise BadSample("json", f"json: {len(data)} bytes, at most {MAX_JSON_BYTES} are read")
    try:
        record = json.loads(bytes(data), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:  # the latter from brackets nested too deeply
        raise BadSample("json", f"json: {error}") from error
    if not isinstance(record, dict):
        raise BadSample("field", f"json: expected an object, found {type(record).__name__}")
    return record


def _text(data: bytes | memoryview) -> str:
    try:
        return bytes(data).decode().strip()
    except UnicodeDecodeError as error:
        raise BadSample("text", f"txt: expected UTF-8 text ({error})") from error


def _check_text(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise BadSample("text", f"a text of {len(text)} characters, at most {MAX_TEXT} are read")
    if _SURROGATE.search(text):  # half a character, which JSON can write and no tokeniser can read
        raise BadSample("text", f"a text with half a character: {text[:80]!r}")


def _record_fields(record: dict[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in record.items() if value is not None and name != "key"}
    if isinstance(fields.get("metadata"), str):
        fields["metadata"] = _json(fields["metadata"].encode())
    for name in ("concepts", "attachments"):
        if isinstance(fields.get(name), list) and len(fields[name]) > MAX_ENTRIES:
            raise BadSample("field", f"{name}: {len(fields[name])} entries, at most {MAX_ENTRIES} are read")
    if isinstance(fields.get("concepts"), list):
        fields["concepts"] = [{"phrase": phrase} for phrase in fields["concepts"]]
    return fields


def _add_numbered(sample: dict[str, Any], kind: str, number: int, name: str, data: bytes | memoryview) -> None:
    entries = sample.get(f"{kind}s")
    if not isinstance(entries, list) or number >= len(entries) or not isinstance(entries[number], dict):
        raise BadSample("field", f"{name}: the JSON's {kind}s have no such entry")
    if kind == "concept":
        entries[number]["mask"] = decode_image(f"concept{number}", data, mask=True)
    elif _SUFFIX.search(name):
        entries[number]["data"] = decode_image(f"attachment{number}", data)
    else:
        entries[number] |= {"data": bytes(data), "format": name.partition(".")[2]}
