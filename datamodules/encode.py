"""A sample -> the files that stand for it in a tar (see `decode` for the way back).

`source.png`, `target.png`, `target_mask.png`, `concept0.png` ..., `attachment0.png`, `attachment1.wav` ..., and `json`
with every text, the concepts' phrases, what the attachments are, and the metadata; `features.safetensors` where there
are any. Metadata is a JSON text inside that JSON, so that tools which want one type for each column (`datasets`) can
read shards whose metadata has another shape in each sample.
"""

from __future__ import annotations

import io
import json
from typing import Any, cast

from PIL import Image

from datamodules.faults import BadSample
from datamodules.features import MEMBER, pack
from datamodules.pixels import to_mask, to_rgb
from datamodules.schema import IMAGE_FIELDS, MASK_FIELDS, TEXT_FIELDS, Attachment, Sample, SchemaError, validate

_SUFFIXES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg"}


def encode(sample: Sample) -> dict[str, bytes]:
    """File name after the key's dot -> bytes, sorted by name. PIL images become PNG (exact), bytes stay as they are.

    Raises:
        SchemaError: the sample breaks the schema, a picture or mask is of a kind that nobody reads, bytes of an image
            are neither PNG, JPEG nor WebP, a sound has no `format`, or the metadata is not plain JSON with str keys.
    """
    validate(sample)
    key = sample["key"]
    files: dict[str, bytes] = {}
    record: dict[str, Any] = {field: sample[field] for field in (*TEXT_FIELDS, "edit_type") if field in sample}
    for field in (*IMAGE_FIELDS, *MASK_FIELDS):
        if field in sample:
            _add_image(files, key, field, sample[field], mask=field in MASK_FIELDS)
    if "concepts" in sample:
        record["concepts"] = [concept["phrase"] for concept in sample["concepts"]]
        for number, concept in enumerate(sample["concepts"]):
            if "mask" in concept:
                _add_image(files, key, f"concept{number}", concept["mask"], mask=True)
    if "attachments" in sample:
        record["attachments"] = [_attachment_record(attachment) for attachment in sample["attachments"]]
        for number, attachment in enumerate(sample["attachments"]):
            data = attachment["data"]
            if attachment["kind"] == "audio":
                files[f"attachment{number}.{attachment['format']}"] = cast(bytes, data)
            else:
                _add_image(files, key, f"attachment{number}", data, mask=False)
    if "metadata" in sample:
        record["metadata"] = _dump(key, sample["metadata"])
    files["json"] = _dump(key, record).encode()
    if "features" in sample:
        files[MEMBER] = pack(sample["features"])
    return dict(sorted(files.items()))


def _attachment_record(attachment: Attachment) -> dict[str, Any]:
    """What the JSON says of an attachment; a `word` that is None is not the same as none given."""
    word = {"word": attachment["word"] and list(attachment["word"])} if "word" in attachment else {}
    return {"kind": attachment["kind"], "role": attachment.get("role", ""), **word}


def _dump(key: str, value: Any) -> str:
    try:
        _check_names(value)
        return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise SchemaError(f"sample {key!r}, field 'metadata': expected plain JSON values ({error})") from error


def _check_names(value: Any) -> None:
    """JSON would turn other keys of dictionaries into str without a word, and they would come back as such."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise TypeError(f"key {name!r} is no str")
            _check_names(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_names(inner)


def _add_image(files: dict[str, bytes], key: str, field: str, image: Image.Image | bytes, mask: bool) -> None:
    if isinstance(image, bytes):
        suffix = next((suffix for magic, suffix in _SUFFIXES.items() if image.startswith(magic)), None)
        if image[:4] == b"RIFF" and image[8:12] == b"WEBP":  # a WAV is RIFF too
            suffix = "webp"
        if suffix is None:
            raise SchemaError(
                f"sample {key!r}, field {field!r}: expected PNG, JPEG or WebP bytes, found {image[:12]!r}"
            )
        files[f"{field}.{suffix}"] = image
        return
    if 0 in image.size:
        raise SchemaError(f"sample {key!r}, field {field!r}: expected an image with pixels, found {image.size}")
    buffer = io.BytesIO()
    try:
        (to_mask(field, image) if mask else to_rgb(image)).save(buffer, "PNG", compress_level=4)
    except (BadSample, ValueError) as error:
        reason = error.reason if isinstance(error, BadSample) else "image"
        raise SchemaError(f"sample {key!r}, field {field!r}: {error}", reason) from error
    files[f"{field}.png"] = buffer.getvalue()
