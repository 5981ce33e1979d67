"""A user's table of edits, CSV or JSON lines: read whole and checked before anything is written.

Columns are fields of the schema, in any case and order; errors name the file and the line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.convert.source import ConversionError
from datamodules.schema import TEXT_FIELDS

REQUIRED = ("source", "target", "instruction")
TEXTS = (*(field for field in TEXT_FIELDS if field != "instruction"), "edit_type")
MASKS = ("target_mask", "reference_mask")
OTHERS = ("concepts", "key", "split")
SPLITS = ("train", "val", "test")
_ALIASES = {"mask": "target_mask", "caption": "target_caption"}
_KNOWN = (*REQUIRED, *TEXTS, *MASKS, *OTHERS)


class Row(NamedTuple):
    """One edit: `where` is FILE:LINE, `texts` hold every given column of text by its field, without empty ones."""

    where: str
    source: str
    target: str
    texts: tuple[tuple[str, str], ...]
    masks: tuple[tuple[str, str], ...]
    concepts: tuple[str, ...]
    key: str
    split: str


def read_table(path: Path) -> list[Row]:
    """All rows of a table, in its order; rows without anything in them are left out.

    Raises:
        ConversionError: no such file, another suffix than .csv, .tsv, .jsonl and .json, no rows, a column that is
            unknown, missing or twice there, a line that cannot be read, or a cell that must not be empty.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_lines, ".json": _read_lines}
    if path.suffix.lower() not in readers:
        raise ConversionError(f"{path}: expected a table that ends in .csv, .tsv or .jsonl")
    try:
        rows = [_row(where, entry) for where, entry in readers[path.suffix.lower()](path) if any(entry.values())]
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error.strerror}); give the table of edits") from error
    except UnicodeDecodeError as error:
        raise ConversionError(f"{path}: expected text in UTF-8 ({error}); save it again as UTF-8") from error
    if not rows:
        raise ConversionError(f"{path}: expected at least one row below the names of the columns, found none")
    return rows


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",;\t", key=head.count), strict=True)
        try:
            columns = next(reader, [])
            names = [_field(name, f"{path}:1") for name in columns]
            _check_columns(names, f"{path}:1")
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if len(cells) > len(names) and any(cells[len(names) :]):
                    raise ConversionError(
                        f"{where}: expected {len(names)} cells as the first line has, found {len(cells)}; put texts "
                        "that hold the separator into double quotes"
                    )
                yield where, dict(zip(names, cells, strict=False))
        except csv.Error as error:
            raise ConversionError(f"{path}:{reader.line_num}: not CSV ({error}); correct this line") from error


def _read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConversionError(f"{where}: expected one JSON object a line ({error}); correct this line") from error
        if not isinstance(entry, dict):
            raise ConversionError(f"{where}: expected a JSON object, found {type(entry).__name__}; correct this line")
        names = [_field(name, where) for name in entry]
        _check_columns(names, where)
        yield where, dict(zip(names, entry.values(), strict=True))


def _field(name: str, where: str) -> str:
    """The field that a column means."""
    found = name.strip().lower().replace(" ", "_").replace("-", "_")
    found = _ALIASES.get(found, found)
    if found not in _KNOWN:
        raise ConversionError(f"{where}: no column is called {name!r}; known are {', '.join(_KNOWN)}")
    return found


def _check_columns(names: list[str], where: str) -> None:
    if missing := [name for name in REQUIRED if name not in names]:
        raise ConversionError(
            f"{where}: expected the columns {', '.join(REQUIRED)}, found {', '.join(names) or 'none'}: "
            f"{missing[0]} is missing"
        )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConversionError(f"{where}: the column {twice} is there twice; keep one")


def _row(where: str, entry: Mapping[str, Any]) -> Row:
    concepts = entry.get("concepts")
    phrases = concepts if isinstance(concepts, list) else _text(where, entry, "concepts").split(";")
    if not all(isinstance(phrase, str) for phrase in phrases):
        raise ConversionError(f"{where}: concepts: expected texts, found {str(phrases)[:80]}")
    cells = {name: _text(where, entry, name) for name in _KNOWN if name != "concepts"}
    for name in REQUIRED:
        if not cells[name]:
            raise ConversionError(f"{where}: {name} is empty; fill it in, or delete the row")
    if cells["split"] and cells["split"] not in SPLITS:
        raise ConversionError(f"{where}: split: expected {', '.join(SPLITS)} or nothing, found {cells['split']!r}")
    return Row(
        where,
        cells["source"],
        cells["target"],
        tuple((name, cells[name]) for name in ("instruction", *TEXTS) if cells[name]),
        tuple((name, cells[name]) for name in MASKS if cells[name]),
        tuple(phrase.strip() for phrase in phrases if phrase.strip()),
        cells["key"],
        cells["split"],
    )


def _text(where: str, entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if value is None:
        return ""
    if isinstance(value, dict | list | bool):
        raise ConversionError(f"{where}: {name}: expected a text, found {str(value)[:80]}")
    return str(value).strip()
