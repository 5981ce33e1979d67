"""Where InstructPix2Pix's prompts lie, in folders or zip files, and in which order `seeds.json` lists them."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.convert.files import (
    MAX_FILE_BYTES,
    MAX_JSON_BYTES,
    existing_folder,
    file_size,
    open_zip,
    read_annotations,
    read_entry,
    read_file,
)
from datamodules.convert.source import ConversionError

FOLDER = re.compile(r"\d{7}")
"""What a prompt's folder is called."""
_PICTURE = re.compile(r"(\d+)_0\.jpg")
_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """A folder in a zip file of the source, or below the source itself (archive "")."""

    archive: str
    prefix: str

    def read(self, root: Path, name: str) -> bytes:
        """The bytes of a picture or JSON file in it; see `read_file` and `read_entry`."""
        most = MAX_FILE_BYTES if name.endswith(".jpg") else MAX_JSON_BYTES
        if self.archive:
            return read_entry(root / self.archive, self.prefix + name, most)
        return read_file(root, self.prefix + name, most)

    def size(self, root: Path, name: str) -> int:
        """The bytes of a file in it as unpacked, 0 if there is none."""
        if not self.archive:
            return file_size(root, self.prefix + name)
        entry = open_zip(root / self.archive).NameToInfo.get(self.prefix + name)
        return entry.file_size if entry else 0


class Prompt(NamedTuple):
    """A prompt: its folder's number, its seeds, its place in the order, and where the folder is."""

    name: str
    seeds: tuple[str, ...]
    position: int
    place: Place


def find_prompts(source: str) -> list[Prompt]:
    """The prompts in the order of `seeds.json`; without that file, those that are there, by their numbers.

    Raises:
        ConversionError: no folder, a damaged zip file, or a `seeds.json` of another form.
    """
    root = existing_folder(source)
    places = dict(_places(root))
    path = root / "seeds.json"
    if path.exists():
        listed = _listed(path)
    else:
        if places:
            _log.warning("%s: missing; prompts are split by their sorted numbers", path)
        listed = _found(root, places)
    return [
        Prompt(name, seeds, position, places.get(name, Place("", f"{name}/")))
        for position, (name, seeds) in enumerate(listed)
    ]


def _places(root: Path) -> Iterator[tuple[str, Place]]:
    """Prompt number -> its place; folders on disk come last and so win."""
    for archive in sorted(root.glob("*.zip")):
        for entry in open_zip(archive).namelist():
            folder, _, base = entry.rpartition("/")
            if base == "prompt.json" and FOLDER.fullmatch(name := folder.rpartition("/")[2]):
                yield name, Place(archive.name, f"{folder}/")
    for parent in ("", "data/"):
        if (root / parent).is_dir():
            for path in sorted((root / parent).iterdir()):
                if FOLDER.fullmatch(path.name) and path.is_dir():
                    yield path.name, Place("", f"{parent}{path.name}/")


def _listed(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    entries = read_annotations(path)
    try:
        listed = [(str(name), tuple(str(seed) for seed in seeds)) for name, seeds in entries]
    except (TypeError, ValueError) as error:
        raise ConversionError(f"{path}: expected a list of [folder, [seeds]] ({error})") from error
    if len({name for name, _ in listed}) < len(listed):
        raise ConversionError(f"{path}: a folder is listed more than once; fetch it again")
    return listed


def _found(root: Path, places: dict[str, Place]) -> list[tuple[str, tuple[str, ...]]]:
    """Prompts and seeds by the pictures that are there, as the published `prepare_dataset.py` finds and sorts them."""
    in_zips: dict[Place, list[str]] = defaultdict(list)
    for archive in {place.archive for place in places.values()} - {""}:
        for entry in open_zip(root / archive).namelist():
            folder, _, base = entry.rpartition("/")
            in_zips[Place(archive, f"{folder}/")].append(base)
    listed = []
    for name, place in sorted(places.items()):
        files = in_zips[place] if place.archive else [path.name for path in (root / place.prefix).iterdir()]
        if seeds := tuple(match[1] for file in sorted(files) if (match := _PICTURE.fullmatch(file))):
            listed.append((name, seeds))
    if empty := len(places) - len(listed):
        _log.warning("%s: without a picture {seed}_0.jpg %d folders do not count, as in seeds.json", root, empty)
    return listed
