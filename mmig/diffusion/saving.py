"""Writes trained diffusion parts in the published diffusers layout: half precision, whole files or none."""

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from mmig.base.files import write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
ORIGINS = ("_name_or_path", "name_or_path")
"""Entries in which diffusers and transformers keep the folder that a part was loaded from."""


def save_half(model: nn.Module, folder: Path) -> Path:
    """Write a diffusers model in float16, which itself stays as it is; paths of this machine are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        partial = Path(name)
        copy.deepcopy(model).half().save_pretrained(partial)
        (partial / WEIGHTS).chmod(0o644)  # safetensors would hide it from others
        forget_origins(partial)
        for file in (WEIGHTS, "config.json"):  # the config last: without it the folder is no model
            os.replace(partial / file, folder / file)
    return folder


def forget_origins(folder: Path) -> None:
    """Remove from the configs below a folder where the parts were loaded from: paths of one machine."""
    for path in [*folder.glob("**/*config.json"), *folder.glob("model_index.json")]:
        config = json.loads(path.read_text(encoding="utf-8"))
        cleaned = _without_origins(config)
        if cleaned != config:
            write_json(path, cleaned)


def _without_origins(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {name: _without_origins(value) for name, value in config.items() if name not in ORIGINS}


def save_scheduler(scheduler: Any, folder: Path) -> Path:
    """Write scheduler_config.json; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scheduler_config.json", _without_origins(json.loads(scheduler.to_json_string())))
    return folder


def save_pipeline_index(folder: Path, pipeline: str) -> Path:
    """Write model_index.json, which lets diffusers open `folder` as the pipeline class of that name."""
    from diffusers import __version__

    index: dict[str, Any] = {
        "_class_name": pipeline,
        "_diffusers_version": __version__,
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", _scheduler_class(folder)],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / "model_index.json", index)
    return folder


def _scheduler_class(folder: Path) -> str:
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    return config["_class_name"]
