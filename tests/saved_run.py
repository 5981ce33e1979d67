"""A run directory as training leaves it, without the training."""

from pathlib import Path
from typing import Any

import torch
import yaml

from mmig import __version__
from mmig.checkpoints.checkpoint import build_module
from mmig.training.module import TrainingModule


def save_run(directory: Path, class_path: str, init_args: dict[str, Any], data: dict[str, Any] | None = None) -> Path:
    """Write config.yaml and a checkpoint of step 12 of a module whose trained weights are a little off their start."""
    config = {"model": {"class_path": class_path, "init_args": init_args}, "data": data}
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    module: TrainingModule = build_module(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    state = module.state_dict()
    checkpoint = {
        "state_dict": {name: state[name] for name in module.stored_names()},
        "version": __version__,
        "step": 12,
        "backbones": module.describe_backbones(),
    }
    torch.save(checkpoint, directory / "checkpoints" / "step-00000012.ckpt")
    return directory


def start_from(folder: Path, class_path: str, init_args: dict[str, Any]) -> TrainingModule:
    """A new module that starts from something, as --init_from does."""
    from mmig.checkpoints.checkpoint import init_weights, read_start

    module = build_module({"model": {"class_path": class_path, "init_args": init_args}})
    init_weights(module, read_start(module, folder))
    return module


def texts_that_name(folder: Path, place: Path) -> list[str]:
    """Text files below a folder that hold a path."""
    texts = [path for path in folder.rglob("*") if path.suffix in (".json", ".md", ".txt", ".yaml")]
    assert texts
    return [path.name for path in texts if str(place) in path.read_text(encoding="utf-8")]
