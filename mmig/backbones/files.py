"""Files of a local model folder: which one is this part's, which weights would be read, is anything missing."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmig.backbones.parts import BackboneError, Part

_STEMS = ("diffusion_pytorch_model", "model", "open_clip_model", "open_clip_pytorch_model", "pytorch_model")
_SUFFIXES = (".safetensors", ".bin")


def part_prefix(names: Collection[str], part: Part) -> str | None:
    """Where a part lies among a model's file names: "" (the root), "unet/" ..., or None where it is not there."""
    for prefix in dict.fromkeys(("", f"{part.subfolder}/" if part.subfolder else "")):
        if any(all(prefix + name in names for name in alternative) for alternative in part.files):
            return prefix
    return None


def weight_names(names: Collection[str]) -> list[str]:
    """Names of the weights files that loading would read among one folder's files: safetensors before .bin, no
    variants.
    """
    for suffix in _SUFFIXES:
        for stem in _STEMS:
            if stem + suffix in names:
                return [stem + suffix]
            if f"{stem}{suffix}.index.json" in names:
                shard = re.compile(rf"{re.escape(stem)}-\d+-of-\d+{re.escape(suffix)}")
                return sorted(name for name in names if shard.fullmatch(name))
    return []


def weight_files(folder: Path) -> list[Path]:
    """The weights files of a part's own folder.

    Raises:
        BackboneError: there is none, or a shard that the index names is missing.
    """
    names = {file.name for file in folder.iterdir()}
    for suffix in _SUFFIXES:
        for stem in _STEMS:
            index = f"{stem}{suffix}.index.json"
            if stem + suffix in names:
                return [folder / (stem + suffix)]
            if index in names:
                shards = sorted(set(read_json(folder / index).get("weight_map", {}).values()))
                missing = [shard for shard in shards if shard not in names]
                if missing or not shards:
                    wanted = ", ".join(missing) or "a weight_map"
                    raise BackboneError(
                        f"{folder / index}: expected {wanted} beside it, found none; fetch the model again"
                    )
                return [folder / shard for shard in shards]
    expected = " or ".join(f"{stem}.safetensors" for stem in _STEMS[:3])
    raise BackboneError(f"{folder}: expected weights ({expected}), found {_listing(folder)}; fetch the model again")


def part_folder(root: Path, part: Part) -> Path:
    """The folder of a part: `root` itself, or the part's published subfolder of it; complete.

    Raises:
        BackboneError: no such folder, a file of the part is missing, another part's config, or an empty weights file.
    """
    if not root.is_dir():
        what = "is a file, expected a folder" if root.exists() else "does not exist"
        raise BackboneError(f"{part.name}: the folder {root} {what}; correct the path or fetch the model")
    names = {name for folder in ("", part.subfolder) for name in _names_below(root, folder)}
    prefix = part_prefix(names, part)
    if prefix is None:
        place = f", in it or in its subfolder {part.subfolder}" if part.subfolder else ""
        raise BackboneError(f"{root}: expected {part.marks()} of a {part.name}{place}; found {_listing(root)}")
    folder = root / prefix
    if part.kinds:
        check_kind(folder / "config.json", part.kind_key, part.kinds)
    if part.has_weights:
        for file in weight_files(folder):
            if file.stat().st_size == 0:
                raise BackboneError(f"{file}: expected weights, found an empty file; fetch the model again")
    return folder


def check_kind(file: Path, key: str, kinds: Collection[str], words: str | None = None) -> None:
    """Raise BackboneError unless a config's `key` is one of `kinds`; `words` describe them where they are many."""
    found = read_json(file).get(key)
    if found not in kinds:
        expected = words or " or ".join(kinds)
        raise BackboneError(f"{file}: expected {key} {expected}, found {found!r}; give the folder of that part")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BackboneError: unreadable, or something else than an object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"{file}: expected readable JSON: {error}; fetch the model again") from error
    if not isinstance(content, dict):
        raise BackboneError(f"{file}: expected a JSON object, found a {type(content).__name__}")
    return content


def _names_below(root: Path, folder: str) -> list[str]:
    path = root / folder
    prefix = f"{folder}/" if folder else ""
    return [prefix + file.name for file in path.iterdir() if file.is_file()] if path.is_dir() else []


def _listing(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir())
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "an empty folder"
