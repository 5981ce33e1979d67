"""Danbooru's metadata -> posts: JSON lines in the layouts of 2017 and of 2021.

2017: `tags`, a list of `{"id", "name", "category"}`, and every number as a text. 2021: a text of tags for each
category (`tag_string_general`, ...), and posts without `id`, whose pictures are not public.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.convert.files import MAX_JSON_BYTES, parse_json
from datamodules.convert.source import ConversionError, Finding
from datamodules.convert.tag_captions import Tags
from datamodules.faults import BadSample

_FOLDERS = ("metadata", "danbooru-metadata")
_CATEGORIES = {"0": "general", "1": "artist", "3": "copyright", "4": "character"}  # 5, of the file itself, says nothing
_STATES = ("deleted", "banned")


class Post(NamedTuple):
    """What is said of one picture; None, "" or 0 where nothing is.

    Attributes:
        number: id. parent: id of the post of which this is a variant. md5, kind, short_side: of the original file, its
            kind as a suffix. states: of `deleted` and `banned` what it is.
    """

    number: int
    parent: int
    md5: str
    kind: str
    short_side: int | None
    rating: str
    score: int | None
    states: tuple[str, ...]
    tags: Tags


def metadata_files(root: Path) -> list[Path]:
    """The files that hold posts, in the order of their names; other tables of 2021 beside them do not count.

    Raises:
        ConversionError: there are none.
    """
    for folder in (root / name for name in _FOLDERS):
        files = sorted(path for path in folder.rglob("*.json") if path.is_file())
        if found := [path for path in files if path.name.startswith("posts")] or files:
            return found
    places = " or ".join(_FOLDERS)
    raise ConversionError(f"{root}: expected JSON lines in {places} (posts000000000000.json, ...), found none")


def read_posts(path: Path, frequency: Counter[str]) -> Iterator[Post | Finding]:
    """The posts of a file; of a line that is none, what is wrong with it. Tags are counted as they are read.

    Raises:
        ConversionError: not one post of the file has tags.
    """
    tagged = False
    with path.open("rb") as file:
        # a file without line ends would else be one line as long as itself
        for number, line in enumerate(iter(lambda: file.readline(MAX_JSON_BYTES), b""), 1):
            if not line.strip():
                continue
            try:
                post = _post(parse_json(line, "no post"))
            except BadSample as bad:
                yield Finding(bad.reason, f"{path.name}:{number}", bad.detail)
                continue
            for names in post.tags:
                frequency.update(names)
            tagged = tagged or any(post.tags)
            yield post
    if not tagged:
        raise ConversionError(
            f"{path}: expected posts with `tags` or `tag_string_general`, found none with a tag; is it posts' metadata?"
        )


def _post(record: Any) -> Post:
    if not isinstance(record, dict):
        raise BadSample("json", f"expected an object, found {type(record).__name__}")
    if (number := _number(record, "id")) is None:
        raise BadSample("field", "a post without id")
    sides = [_number(record, f"image_{side}") for side in ("width", "height")]
    return Post(
        number,
        _number(record, "parent_id") or 0,
        _text(record, "md5"),
        _text(record, "file_ext").lower(),
        None if None in sides else min(sides),  # type: ignore[type-var]
        sys.intern(_text(record, "rating")),
        _number(record, "score"),
        tuple(state for state in _STATES if str(record.get(f"is_{state}")).lower() in ("true", "1")),
        _nested(record["tags"]) if isinstance(record.get("tags"), list) else _flat(record),
    )


def _nested(entries: Sequence[Any]) -> Tags:
    names: dict[str, list[str]] = {category: [] for category in Tags._fields}
    for entry in entries:
        category = _CATEGORIES.get(str(entry.get("category"))) if isinstance(entry, dict) else None
        if category and (name := _text(entry, "name")):
            names[category].append(sys.intern(name))
    return Tags(**{category: tuple(found) for category, found in names.items()})


def _flat(record: Mapping[str, Any]) -> Tags:
    texts = {category: _text(record, f"tag_string_{category}") for category in Tags._fields}
    return Tags(**{category: tuple(map(sys.intern, text.split())) for category, text in texts.items()})


def _text(record: Mapping[str, Any], name: str) -> str:
    return value if isinstance(value := record.get(name), str) else ""


def _number(record: Mapping[str, Any], name: str) -> int | None:
    """A whole number, which may be written as a text; None for anything else."""
    value = record.get(name)
    try:
        return int(value) if isinstance(value, int | str) else None
    except ValueError:
        return None
