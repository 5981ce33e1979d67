"""Converters of tables: which column becomes which field of a sample. Also the converter of any `datasets` dataset."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

from datamodules.convert.files import key_part
from datamodules.convert.find_tables import find_tables
from datamodules.convert.source import ConversionError, Finding, Source
from datamodules.convert.tables import Rows, column_names, image_bytes
from datamodules.faults import BadSample
from datamodules.schema import IMAGE_FIELDS, MASK_FIELDS, TEXT_FIELDS, Sample

FIELDS = (*IMAGE_FIELDS, *MASK_FIELDS, *TEXT_FIELDS, "edit_type")
_SPLIT_NAMES = {"validation": "val", "valid": "val", "dev": "val", "eval": "val"}


def split_name(name: str) -> str:
    """The folder of a split: `validation`, `valid` and `dev` are `val`; other names stay."""
    return _SPLIT_NAMES.get(name, re.sub(r"[^\w-]", "_", name))


@dataclass(frozen=True)
class TableSource(Source):
    """Rows become samples, each picture byte for byte as it was stored; keys are split and row number.

    Attributes:
        config: which of a dataset's configurations, where it has several.
    """

    config: str | None = None

    def columns(self) -> Mapping[str, str]:
        """Field of the sample -> column of the table."""
        raise ConversionError(f"{self.name}: maps no columns")

    def kept(self) -> Sequence[str]:
        """Columns that become metadata."""
        return ()

    def splits(self) -> dict[str, Sequence[Any]]:
        """The dataset's own splits."""
        tables = find_tables(self.source, self.config)
        named = {split_name(name): replace(rows, split=split_name(name)) for name, rows in tables.items()}
        if len(named) < len(tables):
            raise ConversionError(f"{self.source}: the splits {sorted(tables)} are not {len(tables)} of ours")
        return named

    def samples(self, items: Rows) -> Iterator[Sample | Finding]:
        """The sample of each row."""
        for number, row in items.read():
            key = f"{key_part(items.split)}-{number:07d}"
            if isinstance(row, BadSample):
                yield Finding(row.reason, key, row.detail)
                continue
            try:
                yield self.sample_of(key, row)
            except BadSample as bad:
                yield Finding(bad.reason, key, bad.detail)

    def sample_of(self, key: str, row: dict[str, Any]) -> Sample:
        """One row as a sample; absent columns and empty cells are absent fields.

        Raises:
            BadSample: "field", a cell of another type than its field; as `image_bytes` for pictures.
        """
        sample: dict[str, Any] = {"key": key}
        for name, column in self.columns().items():
            value = row.get(column)
            if name in (*IMAGE_FIELDS, *MASK_FIELDS):
                value = self.picture(row, column)
            elif (value := _or_none(value)) is not None and not isinstance(value, str):
                raise BadSample("field", f"column {column!r}: expected text, found {type(value).__name__}")
            if value is not None:
                sample[name] = value
        kept = {name: _or_none(row.get(name)) for name in self.kept()}
        if metadata := {name: _plain(value, name) for name, value in kept.items() if value is not None}:
            sample["metadata"] = metadata
        return sample  # type: ignore[return-value]

    def picture(self, row: dict[str, Any], column: str) -> bytes | None:
        """The encoded picture in a cell, None where there is none; a cell may name a file in the dataset's folder."""
        return image_bytes(row.get(column), column, Path(self.source) if Path(self.source).is_dir() else None)

    def estimate(self, items: Rows) -> int:
        """As many bytes as the parquet files have: their pictures are compressed already."""
        return items.bytes


def _or_none(value: Any) -> Any:
    """A cell without numbers that are none (NaN, infinities): pandas' empty cells are such, and JSON has none."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, list):
        return [_or_none(inner) for inner in value]
    return {name: _or_none(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def _plain(value: Any, column: str) -> Any:
    if isinstance(value, bytes):
        raise BadSample("field", f"column {column!r}: expected plain values to keep, found bytes")
    return value


@dataclass(frozen=True)
class HuggingFace(TableSource):
    """Any dataset that the `datasets` library reads, local or from the hub.

    Attributes:
        map: field of the sample (source, target, instruction, ...) -> column. keep: columns that become metadata.
    """

    name: ClassVar[str] = "hf"
    map: dict[str, str] = field(default_factory=dict)
    keep: list[str] = field(default_factory=list)

    def columns(self) -> Mapping[str, str]:
        """What the user gave."""
        return self.map

    def kept(self) -> Sequence[str]:
        """What the user gave."""
        return self.keep

    def splits(self) -> dict[str, Sequence[Any]]:
        """The dataset's own splits; the column map must fit each."""
        if not self.map:
            raise ConversionError("--map: expected field=column pairs, such as --map source=original_image, found none")
        for name in self.map:
            if name not in FIELDS:
                raise ConversionError(f"--map {name}=...: no field of a sample; expected one of {', '.join(FIELDS)}")
        splits = super().splits()
        for split, rows in splits.items():
            if absent := {*self.map.values(), *self.keep} - set(names := column_names(rows)):
                raise ConversionError(
                    f"{self.source}, split {split!r}: no column {min(absent)!r}; it has {', '.join(names)}"
                )
        return splits
