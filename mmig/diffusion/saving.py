"""Writes trained diffusion parts in the published diffusers layout: half precision, whole files or none."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

WEIGHTS = "diffusion_pytorch_model.safetensors"


def save_half(model: nn.Module, folder: Path) -> Path:
    """Write config.json and diffusion_pytorch_model.safetensors (float16) of a diffusers model; returns the folder.

    The model itself stays as it is. Paths of this machine are left out of the config.
    """
    halves = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        partial = Path(name)
        (partial / WEIGHTS).write_bytes(save(halves, metadata={"format": "pt"}))  # save_file would hide it from others
        model.save_config(partial)
        config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        os.replace(partial / WEIGHTS, folder / WEIGHTS)
        write_json(folder / "config.json", config)  # last: without it the folder is no model
    return folder


def save_scheduler(scheduler: Any, folder: Path) -> Path:
    """Write scheduler_config.json; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(scheduler.to_json_string())
    config.pop("_name_or_path", None)
    write_json(folder / "scheduler_config.json", config)
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


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name, then rename."""
    partial = path.with_suffix(path.suffix + ".tmp")
    partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _scheduler_class(folder: Path) -> str:
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    return config["_class_name"]
