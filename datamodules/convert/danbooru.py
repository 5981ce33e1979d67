"""Danbooru2017 and Danbooru2021 (Anonymous, Danbooru community & Branwen): illustrations, captions made of their tags.

Layout: `metadata/*.json` (see `posts`) beside pictures `512px/{id % 1000:04d}/{id}.jpg`, or so in `original` with any
suffix; also the part of 2017 that Kaggle has, `danbooru-metadata` and `danbooru-images`. Some of the folders 0000 to
0999 may be left out: posts that belong into them do not count.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from PIL import Image

from datamodules.convert.files import existing_folder, file_size, read_file
from datamodules.convert.post_filters import PostFilters, safe_rating
from datamodules.convert.posts import Post, metadata_files, read_posts
from datamodules.convert.source import ConversionError, Finding, Source
from datamodules.convert.tag_captions import TagCaptions
from datamodules.images import decode_image
from datamodules.schema import Sample

NUM_FOLDERS = 1000
_PICTURES = ("512px", "original", "danbooru-images", "danbooru-images/danbooru-images")
_FOLDER = re.compile(r"0\d{3}")
_PICTURE = re.compile(r"(\d{1,12})\.\w+", re.ASCII)
_PNG_BYTES = 2.5
"""About how many bytes of PNG a pixel of a square of the short side makes."""


class Picture(NamedTuple):
    """A picture that was chosen: its post's id, its path below the source, and what its sample says (JSON text)."""

    number: int
    path: str
    caption: str
    notes: str


@dataclass(frozen=True)
class Danbooru(Source):
    """A captioned target a picture; items are those posts, and pictures without one, that the subset goes through.

    The subset: folder after folder, in each by id, until `images` posts have passed the filters and have a picture. So
    the first folders alone give the same one, and as an id says nothing of a picture, it is a fair draw of all.

    Attributes:
        filters: which posts count. images: how many pictures at most.
        size: short side to which larger pictures are reduced, in pixels; 0 leaves all as they are.
        val: share held out for validation; variants of one picture (a post and its children) are on one side.
        artists: name them in captions. pictures: folder of the pictures below the source, where it is another.
    """

    name: ClassVar[str] = "danbooru"
    required: ClassVar[tuple[str, ...]] = ("target", "target_caption")
    filters: PostFilters = field(default_factory=PostFilters)
    images: int = 300_000
    size: int = 256
    val: float = 0.01
    artists: bool = False
    pictures: str = ""

    def splits(self) -> dict[str, Sequence[Any]]:
        """Training and validation pictures, and what was found on the way to them.

        Raises:
            ConversionError: a setting out of range, no pictures, no metadata, or metadata without tags.
        """
        self._check()
        root = existing_folder(self.source)
        pictures = find_pictures(root, self.pictures)
        posts, lines, ratings, frequency = _read(root, {number % NUM_FOLDERS for number in pictures})
        found: dict[str, list[Picture | Finding]] = {"train": [*lines], "val": []}
        judge = _Judge(self.filters, safe_rating(ratings), pictures, TagCaptions(frequency, self.artists))
        for family, item in self._chosen(posts, judge):
            found["val" if _draw(family) < self.val else "train"].append(item)
        return {split: items for split, items in found.items() if items}

    def samples_of(self, item: Picture | Finding) -> Iterator[Sample | Finding]:
        """The sample of a picture; what was found before is passed on."""
        if isinstance(item, Finding):
            yield item
            return
        data = read_file(Path(self.source), item.path)
        yield {
            "key": f"{item.number:07d}",
            "target": reduced(data, self.size) if self.size else data,
            "target_caption": item.caption,
            "metadata": json.loads(item.notes),
        }

    def describe(self, item: Picture) -> str:
        """The picture's path."""
        return item.path

    def bytes_of(self, item: Picture | Finding) -> int:
        """As the file is, or as a PNG of the reduced picture; nothing of what is left out."""
        if isinstance(item, Finding):
            return 0
        return int(_PNG_BYTES * self.size**2) if self.size else file_size(Path(self.source), item.path)

    def _check(self) -> None:
        if self.images < 1 or self.size < 0:
            raise ConversionError(
                f"expected --images of at least 1 and --size of at least 0, found {self.images} and {self.size}"
            )
        if not 0 <= self.val < 1:
            raise ConversionError(f"--val: expected a share in [0, 1), found {self.val}")

    def _chosen(self, posts: Sequence[Post], judge: _Judge) -> Iterator[tuple[int, Picture | Finding]]:
        """What comes of each post and of each picture without one, with the post whose side it is on."""
        pictures, chosen = judge.pictures, 0
        alone = pictures.keys() - {post.number for post in posts}
        places = [(post.number, post) for post in posts] + [(number, None) for number in alone]
        for number, post in sorted(places, key=lambda place: (place[0] % NUM_FOLDERS, place[0])):
            if chosen == self.images:
                return
            if post is None:
                yield number, Finding("unlisted", pictures[number], f"no metadata of a post {number}")
                continue
            item = judge.of(post)
            chosen += isinstance(item, Picture)
            yield post.parent or number, item


@dataclass
class _Judge:
    """Says what becomes of one post after the other."""

    filters: PostFilters
    safe: str
    pictures: Mapping[int, str]
    captions: TagCaptions
    numbers: set[int] = field(default_factory=set)
    originals: dict[str, int] = field(default_factory=dict)

    def of(self, post: Post) -> Picture | Finding:
        """The picture that is chosen, or why there is none."""
        name = f"post {post.number}"
        if post.number in self.numbers:
            return Finding("duplicate", name, "its metadata came before")
        self.numbers.add(post.number)
        if verdict := self.filters.refused(post, self.safe):
            return Finding(verdict.reason, name, verdict.detail)
        if post.md5 in self.originals:
            return Finding("duplicate", name, f"the same original file as post {self.originals[post.md5]}")
        if post.number not in self.pictures:
            return Finding("missing", name, f"no picture {post.number}.* in folder {post.number % NUM_FOLDERS:04d}")
        caption = self.captions.caption(post.tags)
        if not caption.text:
            return Finding("tags", name, "none of a kind that captions are made of")
        if post.md5:
            self.originals[post.md5] = post.number
        notes = {"id": post.number, "rating": post.rating, "score": post.score, "tags_cut": caption.tags_cut}
        return Picture(post.number, self.pictures[post.number], caption.text, json.dumps(notes))


def reduced(data: bytes, size: int) -> Image.Image | bytes:
    """A picture whose short side is `size` pixels; the bytes of one that is no larger.

    Raises:
        BadSample: as `decode_image`.
    """
    image = decode_image("target", data)
    scale = size / min(image.size)
    if scale >= 1:
        return data
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def find_pictures(root: Path, folder: str = "") -> dict[int, str]:
    """Id -> path below `root` of every picture in the folders 0000 to 0999 of `folder`, or of the first place with any.

    Raises:
        ConversionError: there are none.
    """
    for parent in [folder] if folder else _PICTURES:
        if pictures := dict(_pictures(root, parent)):
            return pictures
    places = folder or " or ".join(_PICTURES[:3])
    raise ConversionError(f"{root}: expected pictures {places}/0000/1000.jpg, ... (id modulo 1000 / id), found none")


def _pictures(root: Path, parent: str) -> Iterator[tuple[int, str]]:
    base = root / parent
    for folder in sorted(base.iterdir()) if base.is_dir() else ():
        if not (_FOLDER.fullmatch(folder.name) and folder.is_dir()):
            continue
        for name in sorted(path.name for path in folder.iterdir()):
            if (match := _PICTURE.fullmatch(name)) and int(match[1]) % NUM_FOLDERS == int(folder.name):
                yield int(match[1]), f"{parent}/{folder.name}/{name}"


def _read(root: Path, folders: set[int]) -> tuple[list[Post], list[Finding], set[str], Counter[str]]:
    """Posts of these folders, lines that are none, and of all posts the ratings and how frequent each tag is."""
    posts, lines, ratings, frequency = [], [], set(), Counter[str]()
    for path in metadata_files(root):
        for entry in read_posts(path, frequency):
            if isinstance(entry, Finding):
                lines.append(entry)
                continue
            ratings.add(entry.rating)
            if entry.number % NUM_FOLDERS in folders:
                posts.append(entry)
    return posts, lines, ratings, frequency


def _draw(number: int) -> float:
    """A number in [0, 1) that depends on `number` alone."""
    return int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:8]) / 2**64
