"""MagicBrush by sessions, for its multi-turn evaluation: a sample leads from a session's first picture to its last.

`metadata` has the instructions of the turns (`turn_instructions`), which `evaluate.py --turns` follows one by one. The
sources are those of `magicbrush`; a session of which a turn is missing or cannot be read is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from datamodules.convert.files import file_size, key_part
from datamodules.convert.magicbrush import MagicBrushFolder, MagicBrushTable, Turn, is_folder, session_names
from datamodules.convert.section import is_blank
from datamodules.convert.source import Finding, Source
from datamodules.convert.table_source import TableSource
from datamodules.convert.tables import Rows
from datamodules.schema import Sample

NAME = "magicbrush_sessions"
_PUBLISHED = {"train": {"sessions": 4512}, "val": {"sessions": 266}, "test": {"sessions": 535}}


@dataclass(frozen=True)
class FolderSessions(MagicBrushFolder):
    """The sessions of the test set; the target's caption is the local one of the last picture."""

    name: ClassVar[str] = NAME
    published: ClassVar[Mapping[str, Mapping[str, int]]] = _PUBLISHED

    def splits(self) -> dict[str, Sequence[Any]]:
        """The turns of each session, in the order of `edit_sessions.json`."""
        turns = super().splits()["test"]
        return {"test": [tuple(own) for _, own in groupby(turns, key=lambda turn: turn.session)]}

    def samples_of(self, item: tuple[Turn, ...]) -> Iterator[Sample | Finding]:
        """The session as one sample."""
        yield joined(item[0].session, [self.sample_of(turn) for turn in item], self.required)

    def describe(self, item: tuple[Turn, ...]) -> str:
        """The session."""
        return key_part(item[0].session)

    def counted(self, items: Sequence[Any]) -> Mapping[str, int]:
        """Sessions."""
        return {"sessions": len(items)}

    def bytes_of(self, item: tuple[Turn, ...]) -> int:
        """The bytes of its first and last picture."""
        root, session = Path(self.source) / "images", item[0].session
        return sum(file_size(root, f"{session}/{name}") for name in (item[0].input, item[-1].output))


class Session(NamedTuple):
    """A session of a table: its name, the numbers of its rows, and the rows of its split, all of them."""

    name: str
    numbers: tuple[int, ...]
    split: Rows


@dataclass(frozen=True)
class TableSessions(MagicBrushTable):
    """The sessions of the training and dev sets."""

    name: ClassVar[str] = NAME
    published: ClassVar[Mapping[str, Mapping[str, int]]] = _PUBLISHED

    def splits(self) -> dict[str, Sequence[Any]]:
        """The sessions of each split, in the order of their first rows."""
        return {split: _sessions(rows) for split, rows in super().splits().items()}

    def samples(self, items: Sequence[Session]) -> Iterator[Sample | Finding]:
        """A sample a session, as soon as the last of its rows is read; till then its rows are held in memory."""
        of_row = {number: session for session in items for number in session.numbers}
        rows = items[0].split[min(of_row) : max(of_row) + 1]
        turns: dict[str, list[Sample | Finding]] = {session.name: [] for session in items}
        for number, turn in zip(range(rows.start, rows.stop), TableSource.samples(self, rows), strict=True):
            if (session := of_row.get(number)) is None:  # of a session of another shard that lies in between
                continue
            turns[session.name].append(turn)
            if number == session.numbers[-1]:
                yield joined(session.name, turns.pop(session.name), self.required)

    def counted(self, items: Sequence[Any]) -> Mapping[str, int]:
        """Sessions."""
        return {"sessions": len(items)}

    def estimate(self, items: Sequence[Session]) -> int:
        """As much as a row each: of all its rows a session keeps one source and one target."""
        return sum(session.split[:1].bytes for session in items)


def _sessions(rows: Rows) -> list[Session]:
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(session_names(rows)):
        numbers.setdefault(name, []).append(number)
    return [Session(name, tuple(own), rows) for name, own in numbers.items()]


def joined(session: str, turns: Sequence[Sample | Finding], required: Sequence[str]) -> Sample | Finding:
    """The turns of a session as one sample, or what it is dropped for.

    Args:
        session: its name.
        turns: of `magicbrush`, in any order; a finding in the place of one that cannot be read.
        required: fields that every turn must have.
    """
    key = key_part(session)
    whole: list[Any] = []
    for turn in turns:
        if isinstance(turn, Finding):
            return Finding(turn.reason, key, f"{turn.item}: {turn.detail}")
        whole.append(turn)
    whole.sort(key=lambda turn: turn["metadata"]["turn"])
    numbers = [turn["metadata"]["turn"] for turn in whole]
    if numbers != [*range(1, len(whole) + 1)]:
        found = ", ".join(map(str, numbers))
        return Finding("turns", key, f"expected the turns 1 to {numbers[-1]}, found {found}")
    for turn in whole:
        if absent := next((field for field in required if is_blank(turn.get(field))), None):
            return Finding("field", key, f"turn {turn['metadata']['turn']}: no {absent}")
    return _sample(key, session, whole)


def _sample(key: str, session: str, turns: Sequence[Any]) -> Sample:
    first, last = turns[0], turns[-1]
    instructions = [turn["instruction"] for turn in turns]
    known = {name: text for name, text in last["metadata"].items() if name == "global_caption"}
    sample: Sample = {
        "key": key,
        "source": first["source"],
        "target": last["target"],
        "instruction": "; then ".join(text.strip().rstrip(".;") for text in instructions),
        "metadata": {"session": session, "turns": len(turns), "turn_instructions": instructions, **known},
    }
    if "source_caption" in first:
        sample["source_caption"] = first["source_caption"]
    if "target_caption" in last:
        sample["target_caption"] = last["target_caption"]
    return sample


def magicbrush_sessions(source: str, config: str | None = None) -> Source:
    """MagicBrush by sessions, of the same places as `magicbrush`."""
    return FolderSessions(source) if is_folder(source) else TableSessions(source, config)
