"""Sounds with the middle frame of their video, and captions where a table has them: VGG-Sound, AudioSet, AudioCaps and
SoundNet, as InstructAny2Pix's prior is trained on (Li et al. 2023, section 8).

None of these may be passed on with its videos, so what is read here is what a download leaves once sound and middle
frame are cut out: `audio/NAME.{wav,flac,ogg}` and `frames/NAME.{jpg,png,webp}`, beside the table as published. NAME is
the video's id, or the id and the second at which a clip begins, `ID_000030` or `ID_30`, or the id behind a Y.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from datamodules.audio import audio_format
from datamodules.convert.files import existing_folder, file_size, key_part, read_file
from datamodules.convert.source import ConversionError, Finding, Source
from datamodules.faults import BadSample
from datamodules.schema import Sample

Layout = Literal["vggsound", "audioset", "audiocaps", "soundnet"]
LAYOUTS: tuple[Layout, ...] = ("vggsound", "audioset", "audiocaps", "soundnet")
SOUNDS, FRAMES = (".wav", ".flac", ".ogg"), (".jpg", ".jpeg", ".png", ".webp")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test", "eval": "test", "balanced_train": "train"}
_SPLITS |= {"unbalanced_train": "train"}


class Clip(NamedTuple):
    """A row of a table: names that its files may have, its caption ("" for none), and its split."""

    names: tuple[str, ...]
    caption: str
    split: str


class Found(NamedTuple):
    """A clip whose files are there: key, paths below the source, caption."""

    key: str
    sound: str
    frame: str
    caption: str


@dataclass(frozen=True)
class AudioVisual(Source):
    """One sample a clip: `target` is the middle frame, the sound is attached, the caption is `target_caption`.

    Rows whose files are missing are dropped and counted: videos vanish. Sounds and frames keep their bytes.

    Attributes:
        layout: of the table; "soundnet" needs none, its pairs are the names that both folders have.
        table: CSV as published. VGG-Sound: id, second, label, split. AudioSet: id, start, end, labels, behind lines
            that begin with #. AudioCaps: a head with youtube_id, start_time, caption.
        labels: AudioSet's class_labels_indices.csv, which gives labels their words.
        split: of a table that names none.
        audio, frames: folders below the source.
    """

    name: ClassVar[str] = "audiovisual"
    required: ClassVar[tuple[str, ...]] = ("target",)
    layout: Layout = "vggsound"
    table: str = ""
    labels: str = ""
    split: str = "train"
    audio: str = "audio"
    frames: str = "frames"

    def splits(self) -> dict[str, Sequence[Any]]:
        """Clips by split, in the order of the table.

        Raises:
            ConversionError: a table or folder that cannot be used.
        """
        root = existing_folder(self.source)
        sounds, frames = (_by_stem(root, folder) for folder in (self.audio, self.frames))
        found: dict[str, list[Clip | Found]] = {}
        times: Counter[str] = Counter()  # several captions of one clip
        for clip in self._clips(sounds.keys() & frames.keys()):
            name = next((one for one in clip.names if one in sounds and one in frames), None)
            if name is None:
                found.setdefault(clip.split, []).append(clip)
                continue
            times[name] += 1
            key = key_part(name) if times[name] == 1 else f"{key_part(name)}-{times[name]}"
            found.setdefault(clip.split, []).append(Found(key, sounds[name], frames[name], clip.caption))
        if not any(isinstance(item, Found) for items in found.values() for item in items):
            raise ConversionError(
                f"{root}: expected files of the same names in {self.audio}/ and {self.frames}/ that the table knows, "
                f"found {len(sounds)} sounds and {len(frames)} frames, none of them"
            )
        return dict(found)

    def samples_of(self, item: Clip | Found) -> Iterator[Sample | Finding]:
        """The sample of a clip."""
        if isinstance(item, Clip):
            raise BadSample("missing", f"{item.names[0]}: no sound and frame of that name")
        root = Path(self.source)
        sound = read_file(root, item.sound)
        kind = audio_format(sound)
        if kind is None:
            raise BadSample("format", f"{item.sound}: neither WAV, FLAC nor Ogg")
        caption = {"target_caption": item.caption} if item.caption else {}
        attached = {"kind": "audio", "role": "reference", "data": sound, "format": kind}
        metadata = {"dataset": self.layout}
        sample: Any = {"key": item.key, "target": read_file(root, item.frame)}
        yield sample | caption | {"attachments": [attached], "metadata": metadata}

    def describe(self, item: Clip | Found) -> str:
        """The clip's name."""
        return item.key if isinstance(item, Found) else item.names[0]

    def bytes_of(self, item: Clip | Found) -> int:
        """Of both files."""
        if isinstance(item, Clip):
            return 0
        return sum(file_size(Path(self.source), name) for name in (item.sound, item.frame))

    def _clips(self, both: set[str]) -> Iterator[Clip]:
        if self.layout == "soundnet":
            yield from (Clip((name,), "", self.split) for name in sorted(both))
            return
        rows = _rows(Path(self.table))
        if self.layout == "audiocaps":
            yield from _audiocaps(rows, Path(self.table), self.split)
        elif self.layout == "audioset":
            words = _label_words(Path(self.labels))
            for row in rows:
                labels = [words.get(mid.strip(), "") for mid in ",".join(row[3:]).strip(' "').split(",")]
                yield Clip(_names(row[0], row[1]), ", ".join(filter(None, labels)), self.split)
        else:
            for row in rows:
                yield Clip(_names(row[0], row[1]), row[2].strip(), _SPLITS.get(row[3].strip(), self.split))


def _audiocaps(rows: list[list[str]], table: Path, split: str) -> Iterator[Clip]:
    head = [name.strip() for name in rows[0]]
    places = {name: head.index(name) if name in head else -1 for name in ("youtube_id", "start_time", "caption")}
    if lacking := [name for name, place in places.items() if place < 0]:
        raise ConversionError(f"{table}: expected a head with {lacking[0]}, found {', '.join(head)[:100]}")
    for row in rows[1:]:
        told = {name: row[place].strip() for name, place in places.items()}
        yield Clip(_names(told["youtube_id"], told["start_time"]), told["caption"], split)


def _names(identity: str, start: str) -> tuple[str, ...]:
    """What the files of a clip may be called."""
    identity = identity.strip()
    try:
        second = int(float(start))
    except ValueError:
        return identity, f"Y{identity}"
    return f"{identity}_{second:06d}", f"{identity}_{second}", identity, f"Y{identity}"


def _rows(table: Path) -> list[list[str]]:
    """Rows of a table without lines that begin with #; all have at least the fields of a clip.

    Raises:
        ConversionError: no table, or a row of too few fields.
    """
    try:
        text = table.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"--table {table}: cannot be read ({error}); give the CSV as published") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    rows = list(csv.reader(io.StringIO("\n".join(lines)), skipinitialspace=True))
    if short := next((number for number, row in enumerate(rows, 1) if len(row) < 4), None):
        raise ConversionError(f"{table}, row {short}: expected at least 4 fields, found {len(rows[short - 1])}")
    if not rows:
        raise ConversionError(f"{table}: expected rows, found none")
    return rows


def _label_words(table: Path) -> Mapping[str, str]:
    """AudioSet's labels in words: /m/... -> display name."""
    try:
        rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
        return {row["mid"]: row["display_name"] for row in rows}
    except (OSError, UnicodeDecodeError, KeyError) as error:
        raise ConversionError(
            f"--labels {table}: expected class_labels_indices.csv with mid and display_name ({error!r})"
        ) from error


def _by_stem(root: Path, folder: str) -> dict[str, str]:
    """Files of sounds or pictures in a folder, by their names without suffix."""
    place = root / folder
    if not place.is_dir():
        raise ConversionError(f"{place}: expected a folder of sounds or frames, found none")
    wanted = {*SOUNDS, *FRAMES}
    return {file.stem: f"{folder}/{file.name}" for file in sorted(place.iterdir()) if file.suffix.lower() in wanted}
