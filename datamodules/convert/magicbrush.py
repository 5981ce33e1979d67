"""MagicBrush (Zhang et al. 2023): parquet files of its training and dev sets, the unpacked zip of its test set.

Rows: `img_id` (the session), `turn_index`, `source_img`, `mask_img`, `instruction`, `target_img`. The test set's
folder: `edit_sessions.json` (session -> its turns: `input`, `mask`, `output`, `instruction`), `images/{session}/`, and
captions of each picture, of the whole (`global_descriptions.json`) and of what changed (`local_descriptions.json`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from datamodules.convert.brush_mask import editable
from datamodules.convert.files import existing_folder, file_size, key_part, read_annotations, read_file
from datamodules.convert.pairs import text_of
from datamodules.convert.source import ConversionError, Finding, Source
from datamodules.convert.table_source import TableSource
from datamodules.convert.tables import Rows, column
from datamodules.faults import BadSample
from datamodules.schema import Sample

_PUBLISHED = {"train": {"entries": 8807}, "val": {"entries": 528}, "test": {"entries": 1053}}  # turns
_CAPTIONS = ("descriptions", "description", "captions")


def _with_mask(sample: Sample, mask: bytes | None) -> Iterator[Sample | Finding]:
    """The sample with its mask, or without one that cannot be read."""
    try:
        if mask is not None and "source" in sample:
            sample["target_mask"] = editable(mask, sample["source"])
    except BadSample as bad:
        yield Finding("mask", sample["key"], bad.detail, dropped=False)
    yield sample


class Turn(NamedTuple):
    """A turn of a session of the test set: names of its pictures, and captions ("" where there is none)."""

    session: str
    number: int
    turns: int
    instruction: str
    input: str
    mask: str
    output: str
    local_caption: str
    global_caption: str
    source_caption: str


@dataclass(frozen=True)
class MagicBrushFolder(Source):
    """The test set as its zip unpacks; the target's caption is the local one, which the published CLIP-T uses."""

    name: ClassVar[str] = "magicbrush"
    published: ClassVar[Mapping[str, Mapping[str, int]]] = _PUBLISHED
    published_apart: ClassVar[bool] = True
    required: ClassVar[tuple[str, ...]] = ("source", "target", "instruction")

    def splits(self) -> dict[str, Sequence[Any]]:
        """Every turn of every session, in the order of `edit_sessions.json`."""
        root = existing_folder(self.source)
        sessions = read_annotations(root / "edit_sessions.json", dict)
        captions = {kind: _captions(root, kind) for kind in ("local", "global")}
        return {"test": [turn for name, turns in sessions.items() for turn in _turns(name, turns, captions)]}

    def samples_of(self, item: Turn) -> Iterator[Sample | Finding]:
        """The turn as one sample, with its mask."""
        sample = self.sample_of(item)
        try:
            mask = read_file(Path(self.source) / "images", f"{item.session}/{item.mask}") if item.mask else None
        except BadSample as bad:
            yield Finding("mask", sample["key"], bad.detail, dropped=False)
            mask = None
        yield from _with_mask(sample, mask)

    def sample_of(self, item: Turn) -> Sample:
        """The turn without its mask; its input is the target of the turn before.

        Raises:
            BadSample: a picture that cannot be read, as `read_file`.
        """
        root, folder = Path(self.source) / "images", f"{item.session}/"
        metadata: dict[str, Any] = {"session": item.session, "turn": item.number, "turns": item.turns}
        metadata |= {"global_caption": item.global_caption} if item.global_caption else {}
        sample: Sample = {
            "key": f"{key_part(item.session)}-{item.number}",
            "source": read_file(root, folder + item.input),
            "target": read_file(root, folder + item.output),
            "instruction": item.instruction,
            "metadata": metadata,
        }
        if item.local_caption:
            sample["target_caption"] = item.local_caption
        if item.source_caption:
            sample["source_caption"] = item.source_caption
        return sample

    def describe(self, item: Turn) -> str:
        """Session and turn."""
        return f"{key_part(item.session)}-{item.number}"

    def bytes_of(self, item: Turn) -> int:
        """The bytes of its pictures."""
        root, names = Path(self.source) / "images", (item.input, item.output, item.mask)
        return sum(file_size(root, f"{item.session}/{name}") for name in names)


@dataclass(frozen=True)
class MagicBrushTable(TableSource):
    """The parquet files of the training and dev sets."""

    name: ClassVar[str] = "magicbrush"
    published: ClassVar[Mapping[str, Mapping[str, int]]] = _PUBLISHED
    published_apart: ClassVar[bool] = True
    required: ClassVar[tuple[str, ...]] = ("source", "target", "instruction")

    def columns(self) -> Mapping[str, str]:
        """The published ones; the mask and the session are handled apart."""
        return {"source": "source_img", "target": "target_img", "instruction": "instruction"}

    def splits(self) -> dict[str, Sequence[Any]]:
        """The published splits, dev as `val`; a turn must not come twice."""
        splits = super().splits()
        for split, rows in splits.items():
            turns = Counter(zip(*(column(rows.whole, name) for name in ("img_id", "turn_index")), strict=True))
            if repeated := next((turn for turn, count in turns.items() if count > 1 and None not in turn), None):
                raise ConversionError(
                    f"{self.source}: split {split!r} has turn {repeated[1]} of session {repeated[0]} twice; "
                    "fetch it again"
                )
        return splits

    def samples(self, items: Rows) -> Iterator[Sample | Finding]:
        """A sample a row, called by session and turn."""
        turns = _session_lengths(items.whole)
        for sample in super().samples(items):
            if isinstance(sample, Finding):
                yield sample
                continue
            session, turn, mask = (sample["metadata"].pop(name) for name in ("session", "turn", "mask"))
            sample["key"] = f"{key_part(session)}-{turn}"
            sample["metadata"] = {"session": session, "turn": turn, "turns": turns[session]}
            yield from _with_mask(sample, mask)

    def sample_of(self, key: str, row: dict[str, Any]) -> Sample:
        """A row, with session, turn and the mask's bytes in its metadata until `samples` has used them."""
        for name, kind in (("img_id", str | int), ("turn_index", int)):
            if not isinstance(row.get(name), kind):
                raise BadSample("field", f"column {name!r}: expected text or a number, found {row.get(name)!r}")
        sample = super().sample_of(key, row)
        mask = self.picture(row, "mask_img")
        sample["metadata"] = {"session": str(row["img_id"]), "turn": row["turn_index"], "mask": mask}
        return sample


def session_names(rows: Rows) -> list[str]:
    """The session of each row."""
    return [str(session) for session in column(rows, "img_id")]


@lru_cache(maxsize=4)
def _session_lengths(rows: Rows) -> Counter[str]:
    return Counter(session_names(rows))


def _captions(root: Path, kind: str) -> dict[str, dict[str, str]]:
    """Session -> picture -> caption, or {} where the file is not there (it has had several names)."""
    for name in _CAPTIONS:
        if (path := root / f"{kind}_{name}.json").is_file():
            return read_annotations(path, dict)
    return {}


def _turns(session: str, turns: Any, captions: Mapping[str, Mapping[str, Any]]) -> Iterator[Turn]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ConversionError(f"edit_sessions.json: session {session!r}: expected a list of turns")
    of_session = [captions[kind].get(session) for kind in ("local", "global")]
    local, whole = (texts if isinstance(texts, dict) else {} for texts in of_session)
    for number, turn in enumerate(turns, 1):
        instruction, given, mask, output = (text_of(turn, name) for name in ("instruction", "input", "mask", "output"))
        texts = text_of(local, output), text_of(whole, output), text_of(whole, given)
        yield Turn(session, number, len(turns), instruction, given, mask, output, *texts)


def magicbrush(source: str, config: str | None = None) -> Source:
    """MagicBrush: the folder that its test set's zip unpacks to, or a folder of parquet files or a name on the hub."""
    return MagicBrushFolder(source) if is_folder(source) else MagicBrushTable(source, config)


def is_folder(source: str) -> bool:
    """Whether this is the folder of the test set."""
    return (Path(source) / "edit_sessions.json").is_file()
