"""Fill a shared folder with every backbone that configs name, so that jobs run without a network.

A class that a config names by `class_path` says itself which of its arguments are backbones (`backbone_settings`, see
`mmig.backbones.named`). Elsewhere, and in what has no such class, references are found by key: `diffusion` (a pipeline
with all five parts), `backbone` (a pipeline whose UNet is named apart, if at all), `vae`, `unet`, `text_encoder`,
`tokenizer`, `scheduler`, `llm`, `llm_tokenizer`, `mllm` (with its tokenizer), `clip_vision` or `vision`, `blip2` or
`captioner` (with its processor), `blip2_processor`, `imagebind` (with its tokenizer), `dino` (an image transformer for
metrics); their value is a hub id or folder, or a mapping with `path`. A `unet` or `vae` beside a `diffusion` takes the
place of the pipeline's own. CLIP for metrics: `open_clip` or `clip`, a mapping with `name` and `weights`, or a string
beside `open_clip_weights` or `clip_weights`. Local folders are only checked.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmig.backbones.hub import is_hub_id, locate
from mmig.backbones.named import BackboneSettings, origins
from mmig.backbones.parts import (
    BLIP2_PARTS,
    IMAGEBIND_PARTS,
    LLM_PARTS,
    MLLM_PARTS,
    OPEN_CLIP,
    PARTS,
    PIPELINE_PARTS,
    UNET,
    VAE,
    BackboneError,
    Part,
)
from mmig.base.paths import resolved
from mmig.base.settings import RefusedSettingsError, imported

logger = logging.getLogger(__name__)

_REPLACED = (UNET, VAE)
"""Parts that may be named apart from their pipeline."""
_OPEN_CLIP_KEYS = ("open_clip", "clip")
_KEYS: dict[str, tuple[Part, ...]] = {
    "diffusion": PIPELINE_PARTS,
    "backbone": tuple(part for part in PIPELINE_PARTS if part is not UNET),
    **{name: (part,) for name, part in PARTS.items() if part is not OPEN_CLIP},
    "llm": tuple(LLM_PARTS.values()),
    "mllm": tuple(MLLM_PARTS.values()),
    "imagebind": tuple(IMAGEBIND_PARTS.values()),
    "vision": (PARTS["clip_vision"],),
    "dino": (PARTS["image_model"],),
    **dict.fromkeys(("blip2", "captioner"), tuple(BLIP2_PARTS.values())),
}


@dataclass(frozen=True)
class Reference:
    """One mention of a backbone in a config.

    Attributes:
        where: config file and key, for messages.
        path: hub id, folder, or open_clip model name.
        parts: what is loaded from there.
        weights: pretrained tag or file of an open_clip model name.
    """

    where: str
    path: str
    parts: tuple[Part, ...]
    weights: str | None = None


def find_references(config: Any, where: str) -> Iterator[Reference]:
    """Every backbone that a parsed config names."""
    if isinstance(config, list):
        for number, item in enumerate(config):
            yield from find_references(item, f"{where}[{number}]")
    elif isinstance(config, dict):
        table, arguments = _declared(config, where), config.get("init_args")
        if table and isinstance(arguments, dict):
            yield from _of_class(table, arguments, f"{where}: init_args")
            config = {**config, "init_args": _without(arguments, table)}
        for key, value in config.items():
            yield from _reference(str(key), value, config, f"{where}: {key}") or find_references(
                value, f"{where}: {key}"
            )


def read_references(files: list[Path]) -> list[Reference]:
    """The references of config files, each (path, part, weights) once.

    Raises:
        BackboneError: a file is missing or no YAML.
    """
    import yaml

    found: dict[tuple[str, tuple[Part, ...], str | None], Reference] = {}
    for file in files:
        try:
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise BackboneError(f"--config {file}: expected a readable YAML file: {error}") from error
        for reference in find_references(config, str(file)):
            found.setdefault((reference.path, reference.parts, reference.weights), reference)
    return list(found.values())


def fetch(reference: Reference, cache_dir: Path | None = None) -> list[Path]:
    """Make a reference's files local: download hub ids and tags, check folders; the folder (or weights file) of each
    part.

    Raises:
        BackboneError: naming config and key, for whatever is missing.
    """
    try:
        if reference.parts != (OPEN_CLIP,):
            return [locate(reference.path, part, cache_dir=cache_dir) for part in reference.parts]
        return [_fetch_open_clip(reference, cache_dir)]
    except BackboneError as error:
        raise BackboneError(f"{reference.where}: {error}") from error


def _declared(config: dict[str, Any], where: str) -> BackboneSettings:
    """What the class that a section names says of its backbones; nothing where it names none."""
    class_path = config.get("class_path")
    if not isinstance(class_path, str):
        return {}
    try:
        return getattr(imported(class_path), "backbone_settings", {})
    except RefusedSettingsError as error:
        raise BackboneError(
            f"{where}: class_path: expected a class, {class_path} cannot be imported: {error.__cause__}"
        ) from error


def _of_class(table: BackboneSettings, arguments: dict[str, Any], where: str) -> Iterator[Reference]:
    named = origins(table, arguments)
    for setting in table:
        of_setting = [origin for origin in named.values() if origin.setting == setting]
        if of_setting:
            place = setting.replace(".", ": ")
            yield Reference(f"{where}: {place}", of_setting[0].path, tuple(origin.part for origin in of_setting))


def _without(arguments: dict[str, Any], table: BackboneSettings, prefix: str = "") -> dict[str, Any]:
    """Arguments without those that name backbones."""
    return {
        name: _without(value, table, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in arguments.items()
        if prefix + name not in table
    }


def _fetch_open_clip(reference: Reference, cache_dir: Path | None) -> Path:
    name = reference.path.removeprefix("local-dir:").removeprefix("hf-hub:")
    if resolved(name).is_dir() or is_hub_id(name) or name != reference.path:
        return locate(name, OPEN_CLIP, cache_dir=cache_dir)
    import open_clip

    from mmig.backbones.open_clip_weights import built_in_weights

    file, _ = built_in_weights(name.replace("/", "-"), reference.weights, cache_dir)
    open_clip.get_tokenizer(name.replace("/", "-"), cache_dir=None if cache_dir is None else str(cache_dir))
    return file


def _reference(key: str, value: Any, siblings: dict[str, Any], where: str) -> list[Reference]:
    if key in _OPEN_CLIP_KEYS:
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            return [Reference(where, value["name"], (OPEN_CLIP,), value.get("weights"))]
        if isinstance(value, str):
            return [Reference(where, value, (OPEN_CLIP,), siblings.get(f"{key}_weights"))]
    if key in _KEYS:
        path = value.get("path") if isinstance(value, dict) else value
        if isinstance(path, str):
            parts = _KEYS[key]
            if key == "diffusion":
                parts = tuple(part for part in parts if part not in _REPLACED or siblings.get(part.name) is None)
            return [Reference(where, path, parts)]
    return []
