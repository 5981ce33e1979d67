"""Items of a judged benchmark, and what a judge is asked about each."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmig.evaluation.places import MARK, picture_name


class JudgedError(ValueError):
    """Items, prompts, replies or results of a judged benchmark cannot be used."""


@dataclass(frozen=True)
class Item:
    """One edit that a benchmark asks for.

    Attributes:
        key: unlike that of any other item of the benchmark, "animal/1082".
        kind: type of the edit; what a macro mean gives equal weight.
        instruction: what was asked for.
        sources: pictures that are edited, one or several.
        edited: where the edited picture lies, or would lie.
        groups: further groups that it counts in, level -> name, such as {"subtask": "Life Progression"}.
        about: what else its prompts or its score need.
    """

    key: str
    kind: str
    instruction: str
    sources: tuple[Path, ...]
    edited: Path
    groups: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """A picture of a question.

    Attributes:
        path: its file.
        like: another picture's file, to whose size it is resized, whatever its shape; None for its own size.
        longest: most pixels of its longer side; None for any.
    """

    path: Path
    like: Path | None = None
    longest: int | None = None


@dataclass(frozen=True)
class Question:
    """What a judge is asked about an item at once.

    Attributes:
        item: key of the item.
        name: of the question, such as "SC".
        parts: texts and pictures of the turn, in their order.
    """

    item: str
    name: str
    parts: tuple[str | Shown, ...]

    @cached_property
    def prompt_hash(self) -> str:
        """sha256 of the texts, and of where pictures stand among them and how they are resized, whichever they are."""
        said = [part if isinstance(part, str) else [part.like is not None, part.longest] for part in self.parts]
        return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()

    @property
    def pictures(self) -> list[Shown]:
        """Those among the parts."""
        return [part for part in self.parts if isinstance(part, Shown)]


def existing(folder: Path, key: str, names: Sequence[str]) -> Path:
    """The first of some names in a folder that is there, else the first; or of evaluate.py's pictures that of the key.

    Args:
        folder: of edited pictures, in the benchmark's layout or as evaluate.py leaves them.
        key: of the item.
        names: below the folder, the published one first.
    """
    if (folder / MARK).is_file():
        return folder / picture_name(key)
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def unique(items: Iterable[Item], origin: Path) -> list[Item]:
    """The items, none of which has another's key.

    Raises:
        JudgedError: two have one key, or there is none.
    """
    found: dict[str, Item] = {}
    for item in items:
        if item.key in found:
            raise JudgedError(f"{origin}: two items are called {item.key!r}; expected each once")
        found[item.key] = item
    if not found:
        raise JudgedError(f"{origin}: no items found; expected the benchmark's own files there")
    return list(found.values())


def read_json(path: Path) -> Any:
    """A JSON file of a benchmark.

    Raises:
        JudgedError: it is not there, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JudgedError(f"{path}: cannot be read ({error.strerror}); expected a file of the benchmark") from error
    except ValueError as error:
        raise JudgedError(f"{path}: is not JSON ({error})") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A file of one JSON object a line; empty lines count for nothing.

    Raises:
        JudgedError: it is not there, or a line is no JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JudgedError(f"{path}: cannot be read ({error}); expected one JSON object a line") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise JudgedError(f"{path}, line {number}: is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise JudgedError(f"{path}, line {number}: expected a JSON object, found {line[:40]!r}")
            rows.append(row)
    return rows


def only_file(folder: Path, names: Sequence[str]) -> Path:
    """The first of some files that a folder has; the path itself where it is a file.

    Raises:
        JudgedError: it has none of them.
    """
    if folder.is_file():
        return folder
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise JudgedError(f"--items {folder}: expected {' or '.join(names)} there, as the benchmark is published")


def texts_of(row: Mapping[str, Any], names: Sequence[str], origin: str) -> list[str]:
    """Fields of an item that must be there, as text.

    Raises:
        JudgedError: naming the first that is missing.
    """
    for name in names:
        if row.get(name) is None:
            raise JudgedError(f"{origin}: expected a field {name!r}, found {', '.join(sorted(row))}")
    return [str(row[name]) for name in names]
