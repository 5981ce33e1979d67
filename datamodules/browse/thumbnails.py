"""A decoded sample -> its card on the page: every text, and small pictures as `data:` addresses."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass

from PIL import Image

from datamodules.schema import IMAGE_FIELDS, MASK_FIELDS, TEXT_FIELDS, Sample

SIDE = 176
"""Longest side of a small picture in pixels."""
_MOST_PICTURES = 16
_LONGEST_TEXT = 4000


@dataclass(frozen=True)
class Picture:
    """A small picture: what it is, its size in pixels before, and itself as a `data:` address."""

    name: str
    size: tuple[int, int]
    address: str


@dataclass(frozen=True)
class Card:
    """What the page shows of one sample; texts in the order of the schema, cut after 4,000 characters."""

    key: str
    shard: str
    pictures: tuple[Picture, ...]
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


def _described(attachment: dict) -> str:
    data = attachment["data"]
    size = f"{len(data):,} bytes" if isinstance(data, bytes) else f"{data.width} x {data.height} pixels"
    role = attachment.get("role")
    return f"{attachment['kind']}{f', {role}' if role else ''}: {size}"
