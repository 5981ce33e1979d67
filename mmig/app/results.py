"""One edit with all that the page shows of it, as files in a folder of its own."""

import json
import shutil
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmig.app.asking import UNPACKED, EditRequest
from mmig.app.domain import stranger
from mmig.app.examples import Examples
from mmig.app.systems import DESCRIPTIONS, System, shows_attention
from mmig.editor import ATTACHMENTS, ConceptAttention, EditOutput, read_fields
from mmig.evaluation.attention_grid import draw_attention, heat
from mmig.run.edit import perform, read_given, ready
from mmig.run.edit_parser import build_parser

MAP_SIDE = 256
"""Pixels of the longer side of a drawn attention map, at least."""
FULL_DIFFERENCE = 128
"""Levels of 255 that are drawn white."""


@dataclass(frozen=True)
class Part:
    """A piece of a description: its characters, and the number of the attention map of its word, or None."""

    text: str
    map: int | None = None


@dataclass(frozen=True)
class Result:
    """What came of a request.

    Attributes:
        folder: with the files.
        system: name of it.
        request: what was asked for, as this system was asked.
        command: that does the same.
        size: (width, height) of the edited picture.
        description: the text that the edit followed, in parts; () where there is none.
        is_written: whether the model wrote it.
        caption: of the new picture; "" where the model writes none.
        maps: words of which attention maps are there, `map0.png` and so on.
        notes: what else is to be known.
        verdict: the oracle's.
        seconds: that it took.
    """

    folder: Path
    system: str
    request: EditRequest
    command: str
    size: tuple[int, int]
    description: tuple[Part, ...] = ()
    is_written: bool = False
    caption: str = ""
    maps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    verdict: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def edited(self) -> Path:
        """The edited picture."""
        return self.folder / "edited.png"

    @property
    def source(self) -> Path | None:
        """The picture that was edited."""
        return None if self.request.picture is None else self.folder / self.request.picture

    @property
    def difference(self) -> Path | None:
        """Where and how much both differ."""
        path = self.folder / "difference.png"
        return path if path.is_file() else None

    @property
    def archive(self) -> Path:
        """All files, with the command."""
        return self.folder / "edit.zip"


def make_result(system: System, request: EditRequest, given: Path, folder: Path, examples: Examples) -> Result:
    """Do an edit and write all that is shown of it.

    Args:
        system: that edits.
        request: what is asked for; what the system does not read of it is left out, and said in `notes`.
        given: folder of the files that the request names.
        folder: of the result; made here.
        examples: with the judge.

    Raises:
        ValueError: what edit.py's functions refuse.
        Stopped: somebody has stopped it.
    """
    folder.mkdir(parents=True)
    begun = time.monotonic()
    request, notes = fitted(system, request)
    for name in {request.picture, *(name for _, name in request.attachments)} - {None}:
        shutil.copyfile(given / name, folder / name)
    arguments = build_parser().parse_args([*system.words, *request.words(folder), "--out", str(folder / "edited.png")])
    read, editor = read_given(arguments), ready(arguments, system.opened)
    edited, output = perform(editor, arguments, read, system.opened, system.device)
    seconds = time.monotonic() - begun
    edited.save(folder / "edited.png")
    result = Result(folder, system.name, request, request.command(system), edited.size, seconds=seconds)
    result = _with_texts(result, output, notes, editor.response_source == "generated")
    if read.image is not None:
        _draw_difference(read.image, edited).save(folder / "difference.png")
        warning = stranger(system, read.image, request.resolution)
        verdict = examples.verdict(read.image, request.instruction, edited) or {}
        result = replace(result, notes=(*result.notes, *([warning] if warning else [])), verdict=verdict)
    if request.attention:
        result = _with_maps(result, output.extras["attention"], read.image or edited, edited)
    _pack(result)
    return result


def fitted(system: System, request: EditRequest) -> tuple[EditRequest, tuple[str, ...]]:
    """The request without what the system does not read under its settings, and what was left out, in sentences.

    A system that stands beside others is asked what they are asked. What it needs and does not get, it refuses itself.
    """
    arguments = build_parser().parse_args([*system.words, *request.words(), "--out", "edited.png"])
    editor = ready(arguments, system.opened)
    reads, notes = {*read_fields(editor)}, []
    if request.picture is not None and "source" not in reads:
        request = replace(request, picture=None)
        notes.append("It draws without looking at the picture.")
    if request.response and not reads & DESCRIPTIONS:
        request = replace(request, response="")
        notes.append("It reads no description.")
    if request.attachments and not reads & {*ATTACHMENTS.values()}:
        request = replace(request, attachments=())
        notes.append("It takes no attachments.")
    if request.attention and not shows_attention(editor):
        request = replace(request, attention=False)
    return request, tuple(notes)


def _with_texts(result: Result, output: EditOutput, notes: tuple[str, ...], is_written: bool) -> Result:
    cut = tuple(str(one) for one in output.extras.get("cut", [()])[0])
    text = output.texts[0] if output.texts else ""
    silent = ("The model wrote an empty description, so the edit follows no text; write one.",)
    captions = output.extras.get("captions") or [""]
    return replace(
        result,
        description=(Part(text),) if text else (),
        is_written=is_written,
        caption=captions[0],
        notes=(*notes, *cut, *(silent if is_written and not text else ())),
    )


def _with_maps(result: Result, attention: ConceptAttention, source: Image.Image, edited: Image.Image) -> Result:
    """Draw the map of each word that the text encoder has read, and mark the word in the description."""
    draw_attention(source, edited, attention).save(result.folder / "attention.png")
    factor = max(1, round(MAP_SIDE / max(edited.size)))
    large = edited.resize((edited.width * factor, edited.height * factor), Image.Resampling.NEAREST)
    words = []
    for word, values, valid in zip(attention.words[0], attention.maps[0], attention.valid[0].tolist(), strict=False):
        if valid:
            heat(large, values.numpy()).save(result.folder / f"map{len(words)}.png")
            words.append(word)
    text = "".join(part.text for part in result.description)
    return replace(result, maps=tuple(words), description=marked(text, words))


def marked(text: str, words: list[str]) -> tuple[Part, ...]:
    """A text in parts, with the first place of each word marked that does not lie in an earlier one's."""
    places: list[tuple[int, int, int]] = []
    for number, word in enumerate(words):
        start = text.lower().find(word.lower())
        if start >= 0 and all(start >= end or start + len(word) <= begin for begin, end, _ in places):
            places.append((start, start + len(word), number))
    parts, last = [], 0
    for start, end, number in sorted(places):
        parts += [Part(text[last:start])] if start > last else []
        parts.append(Part(text[start:end], number))
        last = end
    return (*parts, *([Part(text[last:])] if last < len(text) else []))


def _draw_difference(source: Image.Image, edited: Image.Image) -> Image.Image:
    """Mean over the channels of the absolute difference, black for none, white from `FULL_DIFFERENCE` levels on."""
    before, after = (np.asarray(image.convert("RGB"), dtype=np.float32) for image in (source, edited))
    levels = np.abs(before - after).mean(axis=2) * (255 / FULL_DIFFERENCE)
    return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))


def _pack(result: Result) -> None:
    facts = {
        "system": result.system,
        "instruction": result.request.instruction,
        "description": "".join(part.text for part in result.description),
        "caption": result.caption,
        "seed": result.request.seed,
        "settings": dict(result.request.settings),
        "verdict": dict(result.verdict),
        "notes": list(result.notes),
        "torch": torch.__version__,
    }
    with zipfile.ZipFile(result.archive, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(result.folder.iterdir()):
            if path != result.archive:
                archive.write(path, str(UNPACKED / path.name))
        archive.writestr(str(UNPACKED / "command.txt"), result.command + "\n")
        archive.writestr(str(UNPACKED / "edit.json"), json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
