"""A decoded sample -> its card on the page: every text, and small pictures and sounds as `data:` addresses."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import cast

from PIL import Image

from datamodules.audio import sound_facts
from datamodules.faults import BadSample
from datamodules.schema import IMAGE_FIELDS, MASK_FIELDS, TEXT_FIELDS, Attachment, Sample

SIDE = 176
"""Longest side of a small picture in pixels."""
_MOST_PICTURES = 16
_LARGEST_SOUND = 2**19
"""Bytes of a sound that can be heard on the page; larger ones are only described."""
_LONGEST_TEXT = 4000


@dataclass(frozen=True)
class Picture:
    """A small picture: what it is, its size in pixels before, and itself as a `data:` address."""

    name: str
    size: tuple[int, int]
    address: str


@dataclass(frozen=True)
class Sound:
    """A sound: what it is, and itself as a `data:` address."""

    name: str
    address: str


@dataclass(frozen=True)
class Card:
    """What the page shows of one sample; texts in the order of the schema, cut after 4,000 characters."""

    key: str
    shard: str
    pictures: tuple[Picture, ...]
    sounds: tuple[Sound, ...]
    texts: tuple[tuple[str, str], ...]
    metadata: str


def make_card(sample: Sample, shard: str) -> Card:
    """The card of a decoded sample."""
    pictures = [(name, sample[name]) for name in (*IMAGE_FIELDS, *MASK_FIELDS) if name in sample]
    pictures += [
        (f"mask of concept {number}", concept["mask"])
        for number, concept in enumerate(sample.get("concepts", ()))
        if "mask" in concept
    ]
    attachments = list(enumerate(sample.get("attachments", ())))
    pictures += [
        (f"attachment {number}", attachment["data"])
        for number, attachment in attachments
        if isinstance(attachment["data"], Image.Image)
    ]
    texts = [(name, sample[name]) for name in ("edit_type", *TEXT_FIELDS) if sample.get(name)]
    texts += [(f"concept {number}", concept["phrase"]) for number, concept in enumerate(sample.get("concepts", ()))]
    texts += [(f"attachment {number}", _described(entry)) for number, entry in attachments]
    metadata = json.dumps(sample["metadata"], ensure_ascii=False, indent=1) if sample.get("metadata") else ""
    return Card(
        sample["key"],
        shard,
        tuple(Picture(name, image.size, data_address(image)) for name, image in pictures[:_MOST_PICTURES]),
        tuple(_sound(number, entry) for number, entry in attachments if _can_be_heard(entry)),
        tuple((name, shorten(text)) for name, text in texts),
        shorten(metadata),
    )


def data_address(image: Image.Image) -> str:
    """An image, made small, as `data:image/...;base64,...`: masks as PNG, which keeps their edges, others as JPEG."""
    small = image.copy()
    mask = image.mode == "L"
    small.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST if mask else Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if mask:
        small.save(buffer, "PNG", optimize=True)
    else:
        small.save(buffer, "JPEG", quality=85)
    kind = "png" if mask else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def shorten(text: str) -> str:
    """A text, or its beginning and how long it is."""
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ... ({len(text):,} characters)"


def _can_be_heard(attachment: Attachment) -> bool:
    return attachment["kind"] == "audio" and len(cast(bytes, attachment["data"])) <= _LARGEST_SOUND


def _sound(number: int, attachment: Attachment) -> Sound:
    content = base64.b64encode(cast(bytes, attachment["data"])).decode()
    return Sound(f"attachment {number}", f"data:audio/{attachment['format']};base64,{content}")


def _length(data: bytes) -> str:
    try:
        facts = sound_facts(data)
    except BadSample as bad:  # of an answer, which the stream never reads
        return f"{len(data):,} bytes, {bad.detail}"
    channels = f"{facts.channels} channel{'s' if facts.channels > 1 else ''}"
    return f"{facts.seconds:.2f} s, {facts.rate:,} samples/s, {channels}, {len(data):,} bytes"


def _described(attachment: Attachment) -> str:
    data = attachment["data"]
    size = _length(data) if isinstance(data, bytes) else f"{data.width} x {data.height} pixels"
    role, word = attachment.get("role"), attachment.get("word")
    named = f"{attachment['kind']}{f', {role}' if role else ''}{f', characters {word[0]}-{word[1]}' if word else ''}"
    return f"{named}: {size}"
