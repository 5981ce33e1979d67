"""Reading checkpoints: find them, open them safely, rebuild the module of a run from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mmig import __version__
from mmig.base.settings import RefusedSettingsError, instantiate
from mmig.checkpoints.files import CheckpointError, checkpoints_in, read, read_outline
from mmig.checkpoints.folders import read_parts
from mmig.checkpoints.renamed import OLDEST_RUNS, is_before_renaming, writer_of
from mmig.checkpoints.weights_file import SUFFIX, foreign_updates
from mmig.training.module import TrainingModule


class OldRunError(CheckpointError):
    """A run of before `OLDEST_RUNS`."""


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file of a run directory (its highest step), or the file itself.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    if (updates := foreign_updates(path)) is not None:
        raise CheckpointError(
            f"{updates} holds low-rank updates (LoRA) of another program, which are no weights of a run; merge them "
            "into the model that they were made for (in diffusers: pipeline.fuse_lora(), then save_pretrained) and "
            "name that folder as a backbone (docs/checkpoints.md)"
        )
    if path.is_file() or (path.suffix == ".ckpt" and path.is_dir()):
        return path
    found = checkpoints_in(path / "checkpoints") or checkpoints_in(path)
    if not found:
        raise CheckpointError(
            f"no checkpoint at {path}: expected a .ckpt file, or a run directory with checkpoints/step-*.ckpt"
        )
    return found[-1]


def run_directory(path: str | Path) -> Path:
    """Directory of the run that a checkpoint file or run directory belongs to.

    Raises:
        CheckpointError: it holds no config.yaml.
    """
    path = Path(path)
    candidates = [path, path.parent, path.parent.parent]
    for candidate in candidates:
        if (candidate / "config.yaml").is_file():
            return candidate
    raise CheckpointError(f"{path} belongs to no run: no config.yaml beside it; give a directory below runs/")


def newest_readable(directory: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a folder that can be read, and what is wrong with those after it.

    Raises:
        CheckpointError: there are some, but none can be read, or an earlier version wrote the newest: a run must not
            begin anew without being told to.
    """
    broken: list[str] = []
    for path in reversed(checkpoints_in(directory)):
        try:
            read_checkpoint(path, outline=True)
        except OldRunError:
            raise
        except CheckpointError as error:
            broken.append(str(error).removesuffix("; use an earlier one"))
        else:
            return path, broken
    if broken:
        raise CheckpointError(
            f"no checkpoint in {directory} can be read ({len(broken)} tried); {broken[0]}. Give another with --resume, "
            "or move them away to begin this run anew"
        )
    return None, []


def run_config(path: str | Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Configuration of the run that a checkpoint belongs to: its config.yaml, or else what the checkpoint itself holds.

    A file of weights says it itself, wherever it lies.

    Args:
        path: checkpoint or run directory.
        checkpoint: as read from there.

    Raises:
        CheckpointError: neither is there.
    """
    config = checkpoint.get("manifest", {}).get("config")
    if config is not None and Path(path).suffix == SUFFIX:
        return config
    try:
        file = run_directory(path) / "config.yaml"
    except CheckpointError:
        if config is None:
            raise
        return config
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def trained_resolution(config: Mapping[str, Any]) -> int | None:
    """Resolution of the data that a run was trained on, None where its configuration does not say."""
    return ((config.get("data") or {}).get("init_args") or {}).get("resolution")


def read_checkpoint(path: str | Path, outline: bool = False) -> dict[str, Any]:
    """Open a checkpoint of any strategy, whole: tensors and plain values, never code.

    Args:
        path: of the checkpoint, or a run directory.
        outline: leave out the weights of a sharded one, which cannot be mapped; empty tensors tell their shapes.

    Raises:
        CheckpointError: the file is missing, truncated, or holds something else than tensors and plain values.
        OldRunError: it was written before `OLDEST_RUNS`, and is no file of weights.
    """
    file = find_checkpoint(path)
    checkpoint = read_outline(file) if outline else read(file)
    for key in ("state_dict", "step", "backbones"):
        if key not in checkpoint:
            raise CheckpointError(f"{file} is not a checkpoint of this repository: it has no entry {key!r}")
    if file.suffix != SUFFIX and is_before_renaming(checkpoint):
        raise OldRunError(
            f"{file} was written by mmig {writer_of(checkpoint)}; runs made before {OLDEST_RUNS} cannot be read by "
            f"{__version__}: check out commit 62c785a for them, or pass their weights on as a .safetensors file "
            "written there by `python -m mmig.export`"
        )
    return checkpoint


def read_start(module: TrainingModule, path: str | Path) -> dict[str, Any]:
    """What a run of `module` starts from, for `init_weights`: a checkpoint, a run directory, or an exported folder.

    Raises:
        CheckpointError: as `read_checkpoint`, or the folder is damaged or holds other backbones.
    """
    exported = module.read_exported(Path(path)) or read_parts(module, Path(path))
    return read_checkpoint(path) if exported is None else exported


def checkpoint_weights(checkpoint: dict[str, Any], ema: bool) -> dict[str, Tensor]:
    """Weights of a checkpoint, with the averaged values in place of the trained ones where `ema` is set."""
    weights = dict(checkpoint["state_dict"])
    if ema and "ema" in checkpoint:
        weights.update(checkpoint["ema"]["weights"])
    return weights


def load_weights(module: TrainingModule, checkpoint: dict[str, Any], ema: bool = True) -> None:
    """Put a checkpoint's weights into a module of the same method, stage and size (ValueError otherwise)."""
    weights = checkpoint_weights(checkpoint, ema)
    module.check_weights(weights)
    module.load_state_dict(weights, strict=False)
    module.carry(weights)
    module.step = checkpoint["step"]


def init_weights(module: TrainingModule, checkpoint: dict[str, Any], complete: bool = True) -> list[str]:
    """Start a new stage from an earlier run's averaged weights; parts that are new keep their initial values.

    What the checkpoint holds stays in every later one, also where this stage trains it no longer.

    Args:
        module: takes the weights.
        checkpoint: the earlier run's.
        complete: it must hold all that is not new in this stage; False to measure a run in a later stage's module.

    Returns:
        Names of the weights that were left out, because the module does without their part (`absent_parts`).

    Raises:
        CheckpointError: the checkpoint holds a weight that this module has not, or has in another shape; or it lacks
            one that this module trains and that is neither a backbone's nor in a part that is new in this stage.
        ValueError: a backbone that both have is not the same.
    """
    given = checkpoint_weights(checkpoint, ema=True)
    absent = tuple(f"{part}." for part in module.absent_parts)
    left_out = [name for name in given if name.startswith(absent)]
    weights = module.own_names({name: value for name, value in given.items() if not name.startswith(absent)})
    shared = checkpoint["backbones"].keys() & module.describe_backbones().keys()
    module.check_backbones({name: checkpoint["backbones"][name] for name in shared})
    own = module.state_dict()
    for name, value in weights.items():
        if name not in own or own[name].shape != value.shape:
            found = "no such weight" if name not in own else f"shape {list(own[name].shape)}"
            raise CheckpointError(
                f"--init_from: {name} {list(value.shape)} does not fit {type(module).__name__} ({found})"
            )
    if complete:
        _check_complete(module, weights)
    module.load_state_dict(weights, strict=False)
    module.carry(weights)
    return left_out


def _check_complete(module: TrainingModule, weights: dict[str, Tensor]) -> None:
    """Raise CheckpointError where a new stage would train a weight that an earlier one should have brought."""
    backbones = {id(p) for part in module.named_backbones().values() for p in part.parameters()}
    trained = {name: id(p) for name, p in module.named_parameters() if p.requires_grad}
    new: set[str] = set()
    for part in module.new_parts:
        members = {name for name in trained if f"{name}.".startswith(f"{part}.")}
        found = members & weights.keys()
        if found and found != members:
            raise CheckpointError(
                f"--init_from: the checkpoint holds {len(found)} of the {len(members)} trained weights of {part} "
                f"(not {min(members - found)}); it must hold this part whole or not at all: take another checkpoint"
            )
        new |= members
    missing = [name for name, p in trained.items() if name not in weights and name not in new and p not in backbones]
    if missing:
        raise CheckpointError(
            f"--init_from: the checkpoint lacks {len(missing)} of the weights that {type(module).__name__} trains, "
            f"{missing[0]} first, which are in no backbone and no new part of this stage "
            f"({', '.join(module.new_parts) or 'it has none'}); start from a run of the stage before, or without "
            "--init_from"
        )


def build_module(config: dict[str, Any]) -> TrainingModule:
    """Instantiate the `model` section (class_path, init_args) of a run's configuration.

    Raises:
        CheckpointError: it names what this code does not have.
    """
    try:
        return instantiate(TrainingModule, config["model"])
    except RefusedSettingsError as error:
        raise CheckpointError(f"the run's config.yaml does not fit this code: model: {error}") from error


def load_module(
    run: str | Path, ema: bool = True, map_location: str | torch.device = "cpu", quantised: bool = True
) -> TrainingModule:
    """Rebuild the module of a run: its configuration, its backbones, its newest weights; in eval mode.

    Args:
        run: run directory, a checkpoint, which may lie alone, or a file of weights.
        ema: take the averaged weights where the run kept them.
        map_location: device of the result.
        quantised: load the language model as the run did; False loads it whole, also on a machine without GPU.

    Raises:
        CheckpointError: no such run, an unreadable file, or other backbones than it was trained on.
    """
    checkpoint = read_checkpoint(run)
    config = run_config(run, checkpoint)
    if not quantised:
        config["model"]["init_args"].get("backbones", {}).pop("quantise_llm", None)
    module = build_module(config)
    module.check_backbones(checkpoint["backbones"])
    load_weights(module, checkpoint, ema)
    return module.to(map_location).eval()
