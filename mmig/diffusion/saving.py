"""Folders in diffusers' layout: one folder a part, and the index by which a pipeline class opens them all."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmig.base.files import write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
ORIGINS = ("_name_or_path", "name_or_path")
"""Entries in which diffusers and transformers keep the folder that a part was loaded from."""
UNFILTERED = MappingProxyType(
    {"feature_extractor": [None, None], "requires_safety_checker": False, "safety_checker": [None, None]}
)
"""Settings of a pipeline of Stable Diffusion's without its filter of pictures."""
DOMAIN_FILE = "domain.json"
"""Beside the weights of an autoencoder: how well it draws its training data again (`mmig.evaluation.domain`)."""


def save_pipeline(
    folder: Path, pipeline: str, parts: Mapping[str, Any], settings: Mapping[str, Any] = UNFILTERED
) -> None:
    """Write the parts of a pipeline and its index.

    Args:
        folder: made if missing.
        pipeline: name of the class of diffusers that is to open it, such as "StableDiffusionPipeline".
        parts: what it takes, by name: models, tokenizers, schedulers.
        settings: of that class; those of Stable Diffusion's by default.
    """
    save_parts(folder, parts)
    save_pipeline_index(folder, pipeline, parts, settings)


def save_parts(folder: Path, parts: Mapping[str, Any]) -> None:
    """Write each part into the sub-folder of its name, in the precision that it has, without paths of this machine."""
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        keep_domain(part, folder / name)
    for file in folder.glob("*/*.safetensors"):
        file.chmod(0o644)  # safetensors would hide it from others
    forget_origins(folder)


def origin_of(part: Any) -> Path | None:
    """The folder here that a part was loaded from; None where it was not, or that folder has gone."""
    name = str(getattr(getattr(part, "config", None), "_name_or_path", "") or "")
    return Path(name) if name and Path(name).is_dir() else None


def keep_domain(part: Any, folder: Path) -> None:
    """Let what was measured of an autoencoder go with it: its file from where it was loaded, if one is there."""
    origin = origin_of(part)
    if origin is not None and (origin / DOMAIN_FILE).is_file():
        shutil.copyfile(origin / DOMAIN_FILE, folder / DOMAIN_FILE)


def save_pipeline_index(
    folder: Path, pipeline: str, parts: Mapping[str, Any], settings: Mapping[str, Any] = UNFILTERED
) -> None:
    """Write model_index.json, which lets diffusers open `folder` as the pipeline class of that name."""
    from diffusers import __version__

    index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": __version__, **settings}
    index |= {name: [type(part).__module__.partition(".")[0], type(part).__name__] for name, part in parts.items()}
    write_json(folder / "model_index.json", dict(sorted(index.items())))


def forget_origins(folder: Path) -> None:
    """Remove from the configs below a folder where the parts were loaded from: paths of one machine."""
    for path in [*folder.glob("**/*config.json"), *folder.glob("model_index.json")]:
        config = json.loads(path.read_text(encoding="utf-8"))
        cleaned = without_origins(config)
        if cleaned != config:
            write_json(path, cleaned)


def without_origins(config: Any) -> Any:
    """A config without the entries that name where a part was loaded from."""
    if not isinstance(config, dict):
        return config
    return {name: without_origins(value) for name, value in config.items() if name not in ORIGINS}
