"""A plain folder of pairs: pictures that belong together by a table, by their folders or by their names.

Layouts:

- TABLE.csv (.tsv, .jsonl, .json) with columns source, target, instruction; see `edit_table`;
- source/NAME.png and target/NAME.png, and instruction/NAME.txt, if any;
- NAME.source.png and NAME.target.png, and NAME.txt or NAME.json (`instruction` and so on), if any.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from datamodules.check.items import Pair
from datamodules.convert.edit_table import read_table
from datamodules.convert.source import ConversionError
from datamodules.schema import TEXT_FIELDS

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
TABLES = (".csv", ".tsv", ".jsonl", ".json")
SIDES = ("source", "target")


@dataclass(frozen=True)
class Pictures:
    """The pairs of a folder, and in words what belongs to none."""

    pairs: list[Pair]
    beside: tuple[str, ...] = ()


def open_pictures(root: Path, table: Path | None = None) -> Pictures:
    """The pairs of a folder, in the first of the three layouts that it has.

    Raises:
        ConversionError: none of them, or a table that cannot be read.
    """
    tables = [table] if table else sorted(file for file in root.iterdir() if _is_table(file))
    if table is not None or (len(tables) == 1 and not (root / SIDES[0]).is_dir() and not _named(root)):
        return _of_table(root, Path(tables[0]))
    if any((root / side).is_dir() for side in SIDES):
        return _of_folders(root)
    if named := _named(root):
        return _of_names(root, named)
    found = f"{len(tables)} tables; choose one with --table" if tables else "none of them"
    raise ConversionError(
        f"{root}: expected shards, a table of source, target and instruction, folders source/ and target/, or files "
        f"NAME.source.png and NAME.target.png; found {found}"
    )


def _is_table(file: Path) -> bool:
    return file.suffix.lower() in TABLES and file.is_file() and file.stem.rpartition(".")[2] not in SIDES


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURES and file.is_file()


def _of_table(root: Path, table: Path) -> Pictures:
    rows = read_table(table)
    named = {path for row in rows for path in (row.source, row.target)}
    files = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if _is_picture(file))
    others = [file for file in files if file not in named]
    pairs = [Pair.of(row, row.key or f"row {number + 1}") for number, row in enumerate(rows)]
    return Pictures(pairs, _beside(others, f"are in no row of {table.name}"))


def _of_folders(root: Path) -> Pictures:
    sides = {side: _by_stem((root / side).iterdir() if (root / side).is_dir() else ()) for side in SIDES}
    texts = root / "instruction"
    pairs = []
    for name in sorted(sides["source"].keys() | sides["target"].keys()):
        paths = {side: _below(root, files.get(name)) for side, files in sides.items()}
        text = texts / f"{name}.txt"
        fields = (("instruction", _text(text)),) if text.is_file() else ()
        pairs.append(Pair(name, name, paths["source"], paths["target"], fields))
    return Pictures(pairs)


def _named(root: Path) -> dict[str, dict[str, Path]]:
    """Pictures by name and side, of files NAME.source.png and NAME.target.png."""
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(root.iterdir()):
        name, _, side = file.stem.rpartition(".")
        if side in SIDES and name and _is_picture(file):
            found.setdefault(name, {})[side] = file
    return found


def _of_names(root: Path, named: Mapping[str, Mapping[str, Path]]) -> Pictures:
    used = {file for sides in named.values() for file in sides.values()}
    others = [file.name for file in sorted(root.iterdir()) if _is_picture(file) and file not in used]
    pairs = [
        Pair(name, name, *(_below(root, sides.get(side)) for side in SIDES), _notes(root, name))
        for name, sides in named.items()
    ]
    return Pictures(pairs, _beside(others, "are neither NAME.source nor NAME.target"))


def _notes(root: Path, name: str) -> tuple[tuple[str, str], ...]:
    """Texts that stand beside the pictures of a name."""
    plain, noted = root / f"{name}.txt", root / f"{name}.json"
    if plain.is_file():
        return (("instruction", _text(plain)),)
    if not noted.is_file():
        return ()
    try:
        content = json.loads(noted.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{noted}: expected a JSON object ({error}); correct it") from error
    texts = content if isinstance(content, dict) else {}
    return tuple((field, texts[field]) for field in TEXT_FIELDS if isinstance(texts.get(field), str))


def _by_stem(files: Iterable[Path]) -> dict[str, Path]:
    return {file.stem: file for file in sorted(files) if _is_picture(file)}


def _below(root: Path, file: Path | None) -> str:
    return "" if file is None else file.relative_to(root).as_posix()


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace").strip()


def _beside(files: list[str], what: str) -> tuple[str, ...]:
    named = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
    return (f"{len(files):,} pictures {what} ({named})",) if files else ()
