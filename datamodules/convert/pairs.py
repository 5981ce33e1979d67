"""Datasets whose JSON files list pairs of pictures with requests: what EVR, GIER and MA5k-Req share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from PIL import Image

from datamodules.convert.files import existing_folder, file_size, read_annotations, read_file
from datamodules.convert.source import ConversionError, Finding, Source
from datamodules.faults import BadSample
from datamodules.images import decode_image
from datamodules.schema import Sample
from datamodules.transforms import ImageTransform

Shapes = Literal["resize", "drop"]


class Request(NamedTuple):
    """One instruction for a pair, and what is known of it alone (a JSON text, so that requests can be hashed)."""

    text: str
    notes: str = "{}"


class Pair(NamedTuple):
    """Two pictures, by their paths below the source, and the requests that lead from one to the other.

    `name` is the first part of the keys; `notes` is a JSON text that becomes metadata of each sample.
    """

    name: str
    source: str
    target: str
    requests: tuple[Request, ...]
    notes: str = "{}"


@dataclass(frozen=True)
class PairSource(Source):
    """A sample a request, all of a pair in one shard; pictures byte for byte as they are where their shapes agree.

    Attributes:
        files: split -> name of its JSON file. folders, pictures: where that file and the pictures may be below the
            source, the first that has them. first: what an entry calls the name of its first picture.
        shapes: what becomes of a pair whose pictures have different shapes, which no batch can hold: "resize" stretches
            the target to the source's size (as the authors of GIER do), "drop" leaves the pair out.
    """

    required: ClassVar[tuple[str, ...]] = ("source", "target", "instruction")
    files: ClassVar[Mapping[str, str]]
    folders: ClassVar[tuple[str, ...]]
    pictures: ClassVar[tuple[str, ...]]
    first: ClassVar[str]
    shapes: Shapes = "resize"

    def splits(self) -> dict[str, Sequence[Any]]:
        """The authors' splits."""
        entries = read_splits(Path(self.source), self.files, self.folders)
        names = [text_of(entry, self.first) for part in entries.values() for entry in part]
        prefix = find_pictures(self.source, self.pictures, names)
        return {
            split: [self.pair(f"{split}-{number:05d}", prefix, entry) for number, entry in enumerate(part)]
            for split, part in entries.items()
        }

    def pair(self, name: str, prefix: str, entry: dict[str, Any]) -> Pair:
        """The pair of an entry; `prefix` goes before the names of its pictures."""
        raise ConversionError(f"{self.name}: declares no pairs")

    def samples_of(self, item: Pair) -> Iterator[Sample | Finding]:
        """The samples of one pair."""
        if not item.requests:
            raise BadSample("field", "the pair has no request")
        root = Path(self.source)
        source, target = read_file(root, item.source), read_file(root, item.target)
        pictures = decode_image("source", source), decode_image("target", target)
        fitted: Image.Image | bytes = target
        if not _agree(*pictures):
            sizes = " and ".join(f"{picture.width}x{picture.height}" for picture in pictures)
            yield Finding("shapes", item.name, f"pictures of {sizes} pixels in one pair", self.shapes == "drop")
            if self.shapes == "drop":
                return
            fitted = pictures[1].resize(pictures[0].size, Image.Resampling.LANCZOS)
        extra, findings = self.more_of(item, pictures[0].size)
        yield from findings
        for number, request in enumerate(item.requests):
            metadata = {**json.loads(item.notes), **json.loads(request.notes)}
            key = f"{item.name}-{number}" if self.samples_per_item > 1 else item.name
            fields = {"source": source, "target": fitted, "instruction": request.text, "metadata": metadata}
            yield {"key": key, **fields, **extra}

    def more_of(self, item: Pair, size: tuple[int, int]) -> tuple[dict[str, Any], list[Finding]]:
        """Further fields of each sample of a pair (its mask), and what was found on the way; `size` is the source's."""
        return {}, []

    def describe(self, item: Pair) -> str:
        """The pair's name."""
        return item.name

    def counted(self, items: Sequence[Pair]) -> Mapping[str, int]:
        """Pairs and requests."""
        return {"pairs": len(items), "requests": sum(len(pair.requests) for pair in items)}

    def bytes_of(self, item: Pair) -> int:
        """Both pictures, once a request."""
        root = Path(self.source)
        return (file_size(root, item.source) + file_size(root, item.target)) * len(item.requests)


def _agree(source: Image.Image, target: Image.Image) -> bool:
    """Whether the stream would take two pictures as one sample."""
    try:
        ImageTransform(8)({"key": "", "source": source, "target": target}, 0, 0)
    except BadSample:
        return False
    return True


def read_splits(root: Path, files: Mapping[str, str], folders: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Split -> entries of its JSON file; splits without a file are left out.

    Args:
        files: split -> name of its file. folders: where to look for them below `root`, "" for itself.

    Raises:
        ConversionError: no file at all, or one that is no list of objects.
    """
    found = {}
    for split, name in files.items():
        if (path := find_file(root, folders, name)) is not None:
            found[split] = read_annotations(path)
            if wrong := next((entry for entry in found[split] if not isinstance(entry, dict)), None):
                raise ConversionError(f"{path}: expected a list of objects, found {str(wrong)[:80]!r} in it")
    if not found:
        places = " or ".join(folder or "the folder itself" for folder in folders)
        raise ConversionError(
            f"{root}: expected {', '.join(files.values())} in {places}, found none; is it the right one?"
        )
    return found


def find_file(root: Path, folders: Sequence[str], name: str) -> Path | None:
    """A file in the first of `folders` below `root` that has it, None if none has."""
    return next((path for folder in folders if (path := root / folder / name).is_file()), None)


def find_pictures(source: str, folders: Sequence[str], names: Sequence[str]) -> str:
    """Which of `folders` below the source holds the pictures, as a prefix of paths ("" or "FOLDER/"); "" for no names.

    Raises:
        ConversionError: none of them holds any of about 100 of the names, evenly spread.
    """
    root = existing_folder(source)
    if not names:
        return ""
    chosen = names[:: max(1, len(names) // 100)]
    for folder in folders:
        if any(file_size(root, f"{folder}{name}") for name in chosen):
            return folder
    places = ", ".join(str(root / folder) for folder in folders)
    raise ConversionError(
        f"{source}: expected the pictures ({names[0]!r}, ...) in one of {places}; put them there "
        "(links that lead out of the source are not followed)"
    )


def text_of(entry: Mapping[str, Any], name: str) -> str:
    """A text of an entry, "" where there is none."""
    return value if isinstance(value := entry.get(name), str) else ""


def texts_of(entry: Mapping[str, Any], name: str) -> list[str]:
    """A list of texts of an entry, without what is no text."""
    values = entry.get(name)
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []
