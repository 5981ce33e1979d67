"""Files of a local model folder: which one is this part's, which weights would be read, is anything missing."""

import itertools
import json
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mmig.backbones.parts import BackboneError, Part
from mmig.base.paths import looked_in

_STEMS = ("diffusion_pytorch_model", "model", "open_clip_model", "open_clip_pytorch_model", "pytorch_model")
_SUFFIXES = (".safetensors", ".bin")
HALF_VARIANTS = ("fp16", "bf16")
"""Variants that hold the same weights in half precision, as MODEL.fp16.safetensors: read where nothing else is there.
Others ("non_ema") are other weights.
"""
_ONLY_WHOLE = ("open_clip_model", "open_clip_pytorch_model")
"""Stems whose library knows no variants."""


def part_prefix(names: Collection[str], part: Part) -> str | None:
    """Where a part lies among a model's file names: "" (the root), "unet/" ..., or None where it is not there."""
    for prefix in ("", *(f"{name}/" for name in part.subfolders)):
        if any(all(prefix + name in names for name in alternative) for alternative in part.files):
            return prefix
    return None


class _Weights(NamedTuple):
    """One way in which weights may lie in a folder."""

    variant: str
    stem: str
    suffix: str

    @property
    def file(self) -> str:
        """All of them in one file."""
        return f"{self.stem}{self.variant and f'.{self.variant}'}{self.suffix}"

    @property
    def index(self) -> str:
        """Which shard holds what."""
        return f"{self.stem}{self.suffix}.index{self.variant and f'.{self.variant}'}.json"

    def is_shard(self, name: str) -> bool:
        """Whether a file is one of the shards; libraries have written the variant before and after the number."""
        number, stem, suffix = r"-\d+-of-\d+", re.escape(self.stem), re.escape(self.suffix)
        forms = (f"{number}\\.{self.variant}", f"\\.{self.variant}{number}") if self.variant else (number,)
        return any(re.fullmatch(stem + form + suffix, name) for form in forms)


def _ways(variants: Collection[str]) -> Iterator[_Weights]:
    """In the order of preference: whole precision before half, safetensors before .bin."""
    for variant, suffix, stem in itertools.product(("", *variants), _SUFFIXES, _STEMS):
        if not variant or stem not in _ONLY_WHOLE:
            yield _Weights(variant, stem, suffix)


def weight_names(names: Collection[str]) -> list[str]:
    """Names of the weights files that loading would read among one folder's files: safetensors before .bin, a variant
    in half precision where there is nothing else.
    """
    for way in _ways(HALF_VARIANTS):
        if way.file in names:
            return [way.file]
        if way.index in names and (shards := sorted(name for name in names if way.is_shard(name))):
            return shards
    return []


def weight_files(folder: Path, variants: Collection[str] = HALF_VARIANTS) -> list[Path]:
    """The weights files of a part's own folder.

    Args:
        folder: of the part.
        variants: that will do where there is nothing else, see `HALF_VARIANTS`.

    Raises:
        BackboneError: there is none, or a shard that the index names is missing.
    """
    names, lacking = {file.name for file in folder.iterdir()}, None
    for way in _ways(variants):
        if way.file in names and (lacking is None or way.variant):
            return [folder / way.file]
        if way.index in names and (lacking is None or way.variant):
            shards = sorted(set(read_json(folder / way.index).get("weight_map", {}).values()))
            missing = [shard for shard in shards if shard not in names]
            if shards and not missing:
                return [folder / shard for shard in shards]
            lacking = lacking or (folder / way.index, ", ".join(missing) or "a weight_map")
    if lacking is not None:
        raise BackboneError(f"{lacking[0]}: expected {lacking[1]} beside it, found none; fetch the model again")
    expected = " or ".join(f"{stem}.safetensors" for stem in _STEMS[:3])
    raise BackboneError(f"{folder}: expected weights ({expected}), found {_listing(folder)}; fetch the model again")


def variant_of(file: Path) -> str | None:
    """The variant that a weights file belongs to, "fp16" or "bf16"; None for whole precision."""
    found = re.search(rf"\.({'|'.join(HALF_VARIANTS)})[.-]", file.name)
    return found and found[1]


def part_folder(root: Path, part: Part, variants: Collection[str] = HALF_VARIANTS) -> Path:
    """The folder of a part: `root` itself, or the part's published subfolder of it; complete.

    Args:
        root: the part's own folder or a pipeline's.
        part: which.
        variants: of the weights that will do, as of `weight_files`.

    Raises:
        BackboneError: no such folder, a file of the part is missing, another part's config, or an empty weights file.
    """
    if not root.is_dir():
        what = "is a file, expected a folder" if root.exists() else "does not exist"
        place = "" if root.exists() else looked_in(root)
        raise BackboneError(f"{part.name}: the folder {root} {what}{place}; correct the path or fetch the model")
    names = {name for folder in ("", *part.subfolders) for name in _names_below(root, folder)}
    prefix = part_prefix(names, part)
    if prefix is None:
        place = f", in it or in its subfolder {' or '.join(part.subfolders)}" if part.subfolders else ""
        raise BackboneError(f"{root}: expected {part.marks()} of a {part.name}{place}; found {_listing(root)}")
    folder = root / prefix
    if part.kinds:
        check_kind(folder / "config.json", part.kind_key, part.kinds)
    if part.has_weights:
        for file in weight_files(folder, variants):
            if file.stat().st_size == 0:
                raise BackboneError(f"{file}: expected weights, found an empty file; fetch the model again")
    return folder


def check_kind(file: Path, key: str, kinds: Collection[str], words: str | None = None) -> None:
    """Raise BackboneError unless a config's `key` is one of `kinds`; `words` describe them where they are many."""
    found = read_json(file).get(key)
    if found not in kinds:
        expected = words or " or ".join(kinds)
        raise BackboneError(f"{file}: expected {key} {expected}, found {found!r}; give the folder of that part")


CARD = """# {name}

{about}

Written in this layout by mmig.

Licence: not known here; see its source.
"""


@contextmanager
def new_folder(out: Path, about: str) -> Iterator[Path]:
    """A folder to write into, which is renamed to `out` when the block is through; where that fails, nothing stays.

    Args:
        out: must not exist.
        about: what the weights are of and where they are from, a sentence for the folder's card (README.md), which is
            written where the block writes none.

    Raises:
        BackboneError: `out` exists.
    """
    if out.exists():
        raise BackboneError(f"{out}: exists already; give a new folder")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        if not (card := partial / "README.md").exists():
            card.write_text(CARD.format(name=out.name, about=about), encoding="utf-8")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
