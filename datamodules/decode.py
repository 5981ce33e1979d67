"""Files of one sample in a tar -> a sample; see `encode` for the way there, `shard_reader` for the files.

Two layouts: ours (`source.png`, `json`, ...), and img2dataset's (`jpg`, `txt`, `json`), whose image is the target, its
text the target's caption and its JSON metadata. Whatever is wrong with the bytes becomes a `BadSample`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

from PIL import Image

from datamodules.faults import BadSample
from datamodules.features import DETAIL, FAULT, MEMBER, FeatureError, Features, unpack
from datamodules.images import decode_image
from datamodules.keys import sample_key
from datamodules.schema import ANSWER, IMAGE_FIELDS, MASK_FIELDS, Sample, SchemaError, texts, validate

MAX_JSON_BYTES = 16 * 2**20
MAX_TEXT = 100_000
"""Characters of the longest text that is read; beyond that it is no caption, and tokenisers take minutes."""
MAX_ENTRIES = 64
"""Concepts or attachments of one sample; a batch holds room for the most that one of its samples has."""
_SUFFIX = re.compile(r"\.(?:png|jpe?g|webp)$", re.IGNORECASE)
PLAIN_IMAGES = ("jpg", "jpeg", "png", "webp")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMBERED = re.compile(r"(concept|attachment)(\d+)")
_log = logging.getLogger(__name__)


def decode(
    key: str,
    files: Mapping[str, bytes | memoryview],
    encoded: Collection[str] = (),
    least_size: tuple[int, int] | None = None,
    with_answers: bool = True,
) -> Sample:
    """Decode one sample: images to PIL RGB, masks to PIL "L", JSON to texts, concepts, attachments and metadata.

    Args:
        key: the sample's name in the tar; `sample_key` of it becomes the key, whatever the JSON says.
        files: name after the key's dot -> bytes.
        encoded: image fields that a sample with cached features keeps as bytes.
        least_size: (height, width) that an image must cover; see `images.decode_image`. Attachments come whole.
        with_answers: False leaves the pictures of attachments that only scoring may see encoded.

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
    if MEMBER in files:
        sample["features"] = _features(files[MEMBER])
    kept = encoded if MEMBER in files else ()
    plain = next((name for name in PLAIN_IMAGES if name in files), None)
    record = _json(files["json"]) if "json" in files else {}
    if plain is None and "txt" not in files:
        sample |= _record_fields(record)
    else:
        sample |= {"target": _image("target", files[plain], kept, least_size)} if plain else {}
        sample |= {
            "metadata": record,
            "target_caption": _text(files["txt"]) if "txt" in files else record.get("caption") or "",
        }
    for field in (*IMAGE_FIELDS, *MASK_FIELDS):
        if field in by_field:
            sample[field] = _image(field, by_field[field][1], kept, least_size)
    for field, (name, data) in by_field.items():
        if match := _NUMBERED.fullmatch(field.partition(".")[0]):
            _add_numbered(sample, match[1], int(match[2]), name, data, with_answers)
    try:
        validate(sample)
    except SchemaError as error:
        raise BadSample(error.reason, str(error)) from error
    for text in (sample.get("edit_type", ""), *texts(sample)):
        _check_text(text)
    return sample  # type: ignore[return-value]


def _image(
    field: str, data: bytes | memoryview, encoded: Collection[str], least_size: tuple[int, int] | None
) -> Image.Image | bytes:
    return bytes(data) if field in encoded else decode_image(field, data, field in MASK_FIELDS, least_size)


def _features(data: bytes | memoryview) -> Features:
    """The features, or the fault that the sample had when they were computed."""
    try:
        features = unpack(data)
    except FeatureError as error:
        raise BadSample("features", str(error)) from error
    if FAULT in features.facts:
        raise BadSample(features.facts[FAULT], features.facts.get(DETAIL, ""))
    return features


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
            reason = "field" if name == "concepts" else "attachment"
            raise BadSample(reason, f"{name}: {len(fields[name])} entries, at most {MAX_ENTRIES} are read")
    if isinstance(fields.get("concepts"), list):
        fields["concepts"] = [{"phrase": phrase} for phrase in fields["concepts"]]
    if isinstance(fields.get("attachments"), list):
        fields["attachments"] = [_attachment(entry) for entry in fields["attachments"]]
    return fields


def _attachment(entry: Any) -> Any:
    """An attachment as the JSON describes it, in today's words; whether it is one, `validate` says."""
    if not isinstance(entry, dict):
        return entry
    known = {name: entry[name] for name in ("kind", "role", "word") if name in entry}
    if known.get("role") in ("", None):
        known.pop("role", None)
    if known.get("role") == "emu_edit":  # the name that shards that version 0.2 converted have
        known["role"] = ANSWER
    return known


def _add_numbered(
    sample: dict[str, Any], kind: str, number: int, name: str, data: bytes | memoryview, with_answers: bool
) -> None:
    entries = sample.get(f"{kind}s")
    if not isinstance(entries, list) or number >= len(entries) or not isinstance(entries[number], dict):
        reason = "field" if kind == "concept" else kind
        raise BadSample(reason, f"{name}: the JSON's {kind}s have no such entry")
    if "data" in entries[number]:
        raise BadSample("repeated", f"{name}: attachment {number} comes twice")
    if kind == "concept":
        entries[number]["mask"] = decode_image(f"concept{number}", data, mask=True)
    elif _SUFFIX.search(name) and (with_answers or entries[number].get("role") != ANSWER):
        entries[number]["data"] = decode_image(name.partition(".")[0], data)
    else:
        entries[number] |= {"data": bytes(data), "format": name.partition(".")[2].lower()}
