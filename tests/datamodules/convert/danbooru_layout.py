"""Posts of Danbooru as the metadata of 2017 and of 2021 write them, beside small pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from tests.datamodules.convert.layouts import picture, write

Year = Literal[2017, 2021]
CATEGORIES = {"general": "0", "artist": "1", "copyright": "3", "character": "4", "meta": "5"}
WIDTH, HEIGHT = 600, 800
"""Of the originals, by the metadata."""
TAGS = {
    "general": "1girl solo long_hair smile",
    "artist": "some_artist",
    "copyright": "vocaloid",
    "character": "hatsune_miku",
    "meta": "highres",
}


def post(number: int, tags: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
    """A post of neither year: `tags` by category, each a text as the site shows it; `changes` of its other values."""
    values: dict[str, Any] = {"id": number, "tags": TAGS if tags is None else tags, "rating": "s", "score": 5}
    values |= {"md5": hashlib.md5(str(number).encode()).hexdigest(), "file_ext": "jpg", "parent_id": None}
    values |= {"image_width": WIDTH, "image_height": HEIGHT, "is_deleted": False, "is_banned": False}
    return values | changes


def line(values: dict[str, Any], year: Year) -> str:
    """A post as a line of one year's metadata."""
    return json.dumps((_of_2017 if year == 2017 else _of_2021)(**values)) + "\n"


def _of_2017(tags: dict[str, str], parent_id: int | None, **values: Any) -> dict[str, Any]:
    """Every number is a text, no parent is "0", and tags are records."""
    texts = {name: str(value) if type(value) is int else value for name, value in values.items()}
    names = [(name, CATEGORIES[category]) for category, text in tags.items() for name in text.split()]
    return {
        **texts,
        "created_at": "2012-10-11 20:24:29.88563 UTC",
        "uploader_id": "1",
        "source": "",
        "is_note_locked": False,
        "parent_id": str(parent_id or 0),
        "has_children": False,
        "approver_id": "0",
        "file_size": "123456",
        "up_score": "5",
        "down_score": "0",
        "is_pending": False,
        "is_flagged": False,
        "updated_at": "2017-05-06 00:11:22.33 UTC",
        "pixiv_id": "0",
        "tags": [{"id": str(n), "name": name, "category": kind} for n, (name, kind) in enumerate(names)],
        "pools": [],
        "favs": ["1", "2"],
    }


def _of_2021(tags: dict[str, str], parent_id: int | None, **values: Any) -> dict[str, Any]:
    """Tags are a text for each category; a parent is named where there is one."""
    parts = {category: tags.get(category, "") for category in CATEGORIES}
    return {
        **values,
        **({"parent_id": parent_id} if parent_id else {}),
        "created_at": "2012-10-11T16:24:29.885-04:00",
        "uploader_id": 1,
        "source": "",
        "tag_string": " ".join(parts.values()),
        **{f"tag_string_{category}": text for category, text in parts.items()},
        **{f"tag_count_{category}": len(text.split()) for category, text in parts.items()},
        "fav_count": 2,
        "has_children": False,
        "file_size": 123456,
        "up_score": 5,
        "down_score": 0,
        "is_pending": False,
        "is_flagged": False,
        "bit_flags": 0,
        "has_large": False,
    }


def write_danbooru(root: Path, posts: Iterable[dict[str, Any]], year: Year = 2017, size: int = 16) -> Path:
    """Metadata in two files, and a picture of `size` pixels for each post; 2021 has other tables beside its posts."""
    lines = [line(values, year) for values in posts]
    names = ("metadata/201700.json", "metadata/201701.json")
    if year == 2021:
        names = ("metadata/posts000000000000.json", "metadata/posts000000000001.json")
        write(root, {"metadata/tags000000000000.json": '{"id": "1", "name": "1girl", "post_count": "9"}\n'})
    half = (len(lines) + 1) // 2
    write(root, {name: "".join(part) for name, part in zip(names, (lines[:half], lines[half:]), strict=True) if part})
    for values in posts:
        write(root, {picture_path(values["id"]): picture(values["id"], (size, size))})
    return root


def picture_path(number: int, folder: str = "512px", suffix: str = "jpg") -> str:
    """Where a picture lies."""
    return f"{folder}/{number % 1000:04d}/{number}.{suffix}"
