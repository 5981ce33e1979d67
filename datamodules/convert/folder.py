"""A user's own edits: a folder of pictures and a table with source, target and instruction of each (`edit_table`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from datamodules.convert.edit_table import SPLITS, Row, read_table
from datamodules.convert.files import existing_folder, inside, key_part, read_file
from datamodules.convert.pairs import Pair, PairSource, Request
from datamodules.convert.source import ConversionError, Finding
from datamodules.faults import BadSample
from datamodules.images import decode_image
from datamodules.pixels import same_shape
from datamodules.tar_index import file_sha256


@dataclass(frozen=True)
class Folder(PairSource):
    """One sample a row; pictures byte for byte as they are.

    A row without a response takes its target caption, or else its instruction: a denoiser that was shown nothing would
    learn to edit without being asked.

    Attributes:
        table: CSV, JSON lines or a JSON array; see `edit_table`.
        val: share of the source pictures whose rows become validation samples, unless the table names splits. Which
            ones depends on their names alone; all edits of one picture are on one side, by whatever name (a link, a
            copy, `./a.png`) the table calls it.
    """

    name: ClassVar[str] = "folder"
    table: str = ""
    val: float = 0.1

    def splits(self) -> dict[str, Sequence[Any]]:
        """Training and validation rows; test rows too where the table names them.

        Raises:
            ConversionError: a table or folder that cannot be used; one line with the row's line in the table.
        """
        if not 0 <= self.val < 1:
            raise ConversionError(f"val: expected a share in [0, 1), found {self.val}")
        root, rows = existing_folder(self.source), read_table(Path(self.table))
        keys = _keys(rows)
        for row in rows:
            _check_files(root, row)
        found: dict[str, list[Pair]] = {split: [] for split in SPLITS}
        held_out = set() if any(row.split for row in rows) or not self.val else _held_out(root, rows, self.val)
        for row, key in zip(rows, keys, strict=True):
            split = row.split or ("val" if row.source in held_out else "train")
            found[split].append(_pair(root, row, key))
        return {split: pairs for split, pairs in found.items() if pairs}

    def more_of(self, item: Pair, size: tuple[int, int]) -> tuple[dict[str, Any], list[Finding]]:
        """Texts, concepts and masks of a row."""
        row, findings = json.loads(item.notes), []
        fields: dict[str, Any] = {**row["texts"], "metadata": row["metadata"]}
        if row["concepts"]:
            fields["concepts"] = [{"phrase": phrase} for phrase in row["concepts"]]
        for name, path in row["masks"].items():
            try:
                mask = decode_image(name, read_file(Path(self.source), path), mask=True)
                if not same_shape(mask.size, size):
                    sizes = " and ".join(f"{width}x{height}" for width, height in (mask.size, size))
                    raise BadSample("size", f"{name}: another shape than the picture's, {sizes} pixels")
                fields[name] = mask if mask.size == size else mask.resize(size)
            except BadSample as bad:
                findings.append(Finding("mask", self.describe(item), bad.detail, dropped=False))
        return fields, findings

    def describe(self, item: Pair) -> str:
        """The row's place in the table."""
        return json.loads(item.notes)["where"]


def _keys(rows: Sequence[Row]) -> list[str]:
    """The key of each row: the table's, or its number.

    Raises:
        ConversionError: a key comes twice.
    """
    keys = [key_part(row.key) or f"row{number:07d}" for number, row in enumerate(rows)]
    places: dict[str, str] = {}
    for row, key in zip(rows, keys, strict=True):
        if key in places:
            raise ConversionError(f"{row.where}: the key {row.key!r} is that of {places[key]} already; give another")
        places[key] = row.where
    return keys


def _check_files(root: Path, row: Row) -> None:
    for name, path in (("source", row.source), ("target", row.target), *row.masks):
        try:
            inside(root, path)
        except BadSample as bad:
            raise ConversionError(f"{row.where}: {name}: {bad.detail}") from bad


def _pictures(root: Path, rows: Sequence[Row]) -> dict[str, str]:
    """Each source of the table -> the one name of its picture, however often and however it is spelled.

    Links, `./a.png` and `b/../a.png` are names of one file; files of the same bytes are one picture. Only files of
    equal size are read for that.
    """
    real = {row.source: inside(root, row.source) for row in rows}
    sizes: dict[int, list[Path]] = {}
    for path in sorted(set(real.values())):
        sizes.setdefault(path.stat().st_size, []).append(path)
    first: dict[Path, Path] = {}
    for paths in sizes.values():
        contents: dict[str, Path] = {}
        for path in paths:
            first[path] = contents.setdefault(file_sha256(path) if len(paths) > 1 else "", path)
    return {name: first[path].relative_to(root.resolve()).as_posix() for name, path in real.items()}


def _held_out(root: Path, rows: Sequence[Row], share: float) -> set[str]:
    """The sources that are validated on: pictures whose names have the lowest digests; at least one of two."""
    pictures = _pictures(root, rows)
    ordered = sorted(set(pictures.values()), key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen = set(ordered[: max(1, round(share * len(ordered)))] if len(ordered) > 1 else [])
    return {source for source, picture in pictures.items() if picture in chosen}


def _pair(root: Path, row: Row, key: str) -> Pair:
    """A row with all that its sample depends on; sizes and times of its pictures tell later ones apart."""
    texts = dict(row.texts)
    instruction = texts.pop("instruction")
    metadata = {}
    if "response" not in texts:
        metadata["response_from"] = "target_caption" if "target_caption" in texts else "instruction"
        texts["response"] = texts.get("target_caption", instruction)
    stats = [inside(root, path).stat() for path in (row.source, row.target, *dict(row.masks).values())]
    notes = {
        "where": Path(row.where).name,
        "texts": texts,
        "masks": dict(row.masks),
        "concepts": row.concepts,
        "metadata": metadata,
        "files": [[stat.st_size, stat.st_mtime_ns] for stat in stats],
    }
    return Pair(key, row.source, row.target, (Request(instruction),), json.dumps(notes))
