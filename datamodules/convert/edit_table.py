"""A user's table of edits, CSV, JSON lines or a JSON array: read whole and checked before anything is written.

Columns are fields of the schema, in any case and order; errors name the file and the line. NaN, which pandas writes for
an empty cell, is none. Columns without a name, which pandas and spreadsheets add, are left out where they hold nothing.
"""

from __future__ import annotations

import csv
import json
import re
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
_UNNAMED = re.compile(r"unnamed: ?\d+", re.IGNORECASE)
_MISSING = ("nan", "NaN")
"""What pandas makes of an empty cell where it makes texts of all cells."""
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
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_lines, ".json": _read_json}
    if path.suffix.lower() not in readers:
        raise ConversionError(f"{path}: expected a table that ends in .csv, .tsv, .jsonl or .json")
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
            nameless = [place for place, name in enumerate(columns) if _is_nameless(name)]
            names = ["" if place in nameless else _field(name, f"{path}:1") for place, name in enumerate(columns)]
            _check_columns([name for name in names if name], f"{path}:1")
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                for place in nameless:
                    _check_nameless(where, place, cells[place] if place < len(cells) else "")
                if len(cells) > len(names) and any(cells[len(names) :]):
                    raise ConversionError(
                        f"{where}: expected {len(names)} cells as the first line has, found {len(cells)}; put texts "
                        "that hold the separator into double quotes"
                    )
                yield where, {name: cell for name, cell in zip(names, cells, strict=False) if name}
        except csv.Error as error:
            raise ConversionError(f"{path}:{reader.line_num}: not CSV ({error}); correct this line") from error


def _is_nameless(name: str) -> bool:
    """Whether a column has no name; pandas calls it "Unnamed: 0" when it reads such a table and writes it again."""
    return not name.strip() or _UNNAMED.fullmatch(name.strip()) is not None


def _check_nameless(where: str, place: int, cell: str) -> None:
    """Let a column without a name hold nothing, or (the first one) the numbers of pandas' index."""
    if cell.strip() and not (place == 0 and cell.strip().isdecimal()):
        raise ConversionError(
            f"{where}: column {place + 1} has no name, but {cell[:40]!r} is in it; give the column a name in the first "
            "line, or delete it (pandas: to_csv(index=False))"
        )


def _read_json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """One array of objects, or else JSON lines."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        found = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            raise ConversionError(f"{path}: expected one JSON array of objects ({error}); correct it") from error
        return (yield from _read_lines(path))
    cells = found.items() if isinstance(found, dict) else ()
    if any(isinstance(value, dict | list) for name, value in cells if name.strip().lower() in REQUIRED):
        raise ConversionError(
            f"{path}: expected one JSON array of objects, or one object a line, found an object of columns; pandas: "
            'to_json(orient="records")'
        )
    for number, entry in enumerate(found if isinstance(found, list) else [found], start=1):
        yield _entry(f"{path}, entry {number}" if isinstance(found, list) else f"{path}:1", entry)


def _read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            entry = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            raise ConversionError(f"{where}: expected one JSON object a line ({error}); correct this line") from error
        yield _entry(where, entry)


def _entry(where: str, entry: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(entry, dict):
        raise ConversionError(f"{where}: expected a JSON object, found {type(entry).__name__}; correct it")
    named = {name: value for name, value in entry.items() if not _is_nameless(name)}
    names = [_field(name, where) for name in named]
    _check_columns(names, where)
    return where, dict(zip(names, named.values(), strict=True))


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
    phrases = [phrase for phrase in phrases if phrase is not None]
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
    text = str(value).strip()
    return "" if text in _MISSING else text
