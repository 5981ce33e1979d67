"""Folders in diffusers' layout: one folder a part, and the index by which a pipeline class opens them all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmig.base.files import write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
ORIGINS = ("_name_or_path", "name_or_path")
"""Entries in which diffusers and transformers keep the folder that a part was loaded from."""


def save_pipeline(folder: Path, pipeline: str, parts: Mapping[str, Any]) -> None:
    """Write the parts of a pipeline and its index.

    Args:
        folder: made if missing.
        pipeline: name of the class of diffusers that is to open it, such as "StableDiffusionPipeline".
        parts: what it takes, by name: models, tokenizers, schedulers.
    """
    save_parts(folder, parts)
    save_pipeline_index(folder, pipeline, parts)


def save_parts(folder: Path, parts: Mapping[str, Any]) -> None:
    """Write each part into the sub-folder of its name, in the precision that it has, without paths of this machine."""
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    for file in folder.glob("*/*.safetensors"):
        file.chmod(0o644)  # safetensors would hide it from others
    forget_origins(folder)


def save_pipeline_index(folder: Path, pipeline: str, parts: Mapping[str, Any]) -> None:
    """Write model_index.json, which lets diffusers open `folder` as the pipeline class of that name."""
    from diffusers import __version__

    index: dict[str, Any] = {
        "_class_name": pipeline,
        "_diffusers_version": __version__,
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
    }
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
