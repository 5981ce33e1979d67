"""From a command line to an editor: a run, an exported folder, a configuration without a run, a folder of pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmig.base.settings import RefusedSettingsError, call, imported, instantiate
from mmig.checkpoints.checkpoint import (
    find_checkpoint,
    load_module,
    read_checkpoint,
    run_config,
    trained_resolution,
)
from mmig.checkpoints.folders import EDITOR_FILE
from mmig.editor import Editor
from mmig.evaluation.editors import FolderOfPictures
from mmig.evaluation.settings import SettingsError, read_yaml
from mmig.training.module import TrainingModule

OPENER = "open_editor"
"""Name of such functions, so that no other code can be named there."""
SECTIONS = ("editor", "model")
ROLES = ("floor", "ceiling")
"""What an editor that others are held against may be called in its configuration, `role`."""


class OpeningError(ValueError):
    """What was named gives no editor."""


@dataclass(frozen=True)
class Opened:
    """An editor, and what is known of it.

    Attributes:
        editor: on its device, in eval mode.
        facts: what was opened, for metrics.json.
        metrics: metrics of its own, names or class paths.
        data: settings (init_args) of the data that it was trained on, as far as they are known.
        resolution: side in pixels of the images that it was trained on, where it is known.
    """

    editor: Editor
    facts: dict[str, Any]
    metrics: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    resolution: int | None = None


def open_named(
    checkpoint: str | None,
    config: str | None = None,
    images: str | None = None,
    *,
    ema: bool = True,
    device: torch.device | str = "cpu",
) -> Opened:
    """What --checkpoint, --config or --images names; one of them is given.

    Raises:
        ValueError: it cannot be opened.
    """
    if checkpoint is not None:
        return open_checkpoint(checkpoint, ema, device)
    if not ema:
        raise OpeningError("--no-ema: only a run has an average of its weights; leave it out, or give --checkpoint")
    if images is not None:
        return open_images(images)
    assert config is not None  # the command line asks for one of them
    return open_config(config, device)


def open_checkpoint(path: str | Path, ema: bool = True, device: torch.device | str = "cpu") -> Opened:
    """The editor of a run, a checkpoint, a file of weights, or an exported folder.

    Args:
        path: where it is.
        ema: take the averaged weights where a run kept them.
        device: of the result.

    Raises:
        CheckpointError: as of `load_module`.
        OpeningError: a module that edits nothing, or an exported folder that cannot be opened.
    """
    if (Path(path) / EDITOR_FILE).is_file():
        if not ema:
            raise OpeningError(f"--no-ema: {path} is an exported folder, which holds one set of weights; leave it out")
        return open_folder(Path(path), device)
    module = load_module(path, ema=ema, map_location=device)
    facts = {"checkpoint": str(find_checkpoint(path)), "weights": "ema" if ema else "trained"}
    return _of_module(module, run_config(path, read_checkpoint(path, outline=True)), facts, str(path))


def open_folder(folder: Path, device: torch.device | str = "cpu") -> Opened:
    """The editor of an exported folder. It may come from anywhere, so it can name nothing but an `open_editor`.

    Raises:
        OpeningError: its `editor.yaml` names something else, or what cannot be built.
    """
    path = folder / EDITOR_FILE
    section = read_yaml(path)
    class_path = section.get("class_path")
    module, _, name = str(class_path).rpartition(".")
    if name != OPENER:
        raise OpeningError(f"{path}: expected the class_path of a method's {OPENER}, found {class_path!r}")
    given = {**(section.get("init_args") or {}), "path": str(folder)}
    try:
        if imported(f"{module}.{name}").__module__ != module:
            raise OpeningError(f"{path}: {class_path} is defined elsewhere; expected its own name")
        editor = checked_editor(call({"class_path": class_path, "init_args": given}), f"{path}: {class_path}")
    except RefusedSettingsError as error:
        raise OpeningError(f"{path}: {error}; export the run again, or take the version that wrote it") from error
    facts = {"checkpoint": str(folder), "weights": "exported", "editor": section}
    return _of_editor(editor, facts, device)


def open_config(path: str | Path, device: torch.device | str = "cpu") -> Opened:
    """The editor that a configuration describes, without any run.

    It has a section `editor` (class_path and init_args of a class, or of a function that returns an `Editor`), or
    `model`, a training module with the weights of its backbones; parts without pretrained weights are drawn from seed
    0, as `train.py` does before its first step.

    Raises:
        SettingsError: no such section, or one that cannot be built.
        OpeningError: what was built is no editor.
    """
    path = Path(path)
    config = read_yaml(path)
    found = [name for name in SECTIONS if name in config]
    section = config[found[0]] if len(found) == 1 else None
    if not isinstance(section, dict) or "class_path" not in section:
        raise SettingsError(
            f"{path}: expected one section `editor` or `model` with class_path and init_args, found {section or found}"
        )
    facts = {"config": {"path": str(path), found[0]: section}, **_role(config, path)}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same fresh parts on every rank
            built = instantiate(TrainingModule, section) if found[0] == "model" else call(section)
    except RefusedSettingsError as error:
        raise SettingsError(f"{path}: {found[0]}: {error}") from error
    if isinstance(built, TrainingModule):
        return _of_module(built.to(device).eval(), config, facts, str(path))
    return _of_editor(checked_editor(built, f"{path}: {section['class_path']}"), facts, device)


def _role(config: Mapping[str, Any], path: Path) -> dict[str, str]:
    role = config.get("role")
    if role not in (None, *ROLES):
        raise SettingsError(f"{path}: role: expected {' or '.join(ROLES)}, found {role!r}")
    return {"role": role} if role else {}


def open_images(folder: str | Path) -> Opened:
    """A folder of ready-made pictures as an editor.

    Raises:
        PictureError: it cannot be used.
    """
    editor = FolderOfPictures(folder)
    facts = {"images": {"folder": str(folder), "pictures": len(editor.pictures), "texts": len(editor.texts)}}
    return Opened(editor, facts)


def _of_module(module: TrainingModule, config: dict[str, Any], facts: dict[str, Any], origin: str) -> Opened:
    if type(module).make_pipeline is TrainingModule.make_pipeline:
        raise OpeningError(f"{origin}: {type(module).__name__} trains a part that edits no images: it has no pipeline")
    data = (config.get("data") or {}).get("init_args") or {}
    return Opened(module.make_pipeline(), facts, module.metrics, data, trained_resolution(config))


def _of_editor(editor: Editor, facts: dict[str, Any], device: torch.device | str) -> Opened:
    move_editor(editor, device)
    metrics, resolution = tuple(getattr(editor, "metrics", ())), getattr(editor, "resolution", None)
    side = getattr(editor, "attachment_size", None)
    data = {} if side is None else {"attachment_size": side}
    return Opened(editor, facts, metrics, data, resolution)


def move_editor(editor: Editor, device: torch.device | str) -> None:
    """Put an editor on a device, or what it is made of, and take it out of training."""
    if isinstance(editor, nn.Module):
        editor.eval()
    if callable(move := getattr(editor, "to", None)):
        move(device)
        return
    for name, part in vars(editor).items():
        if callable(getattr(part, "to", None)):  # modules, tensors and pipelines of diffusers
            setattr(editor, name, part.to(device))


def checked_editor(found: Any, origin: str) -> Any:
    """An object, if it keeps the contract of `Editor`."""
    wrong = [name for name in ("sampling", "required_fields", "response_source") if not hasattr(found, name)]
    if not callable(found) or wrong or not is_dataclass(found.sampling):
        missing = ", ".join(wrong) or ("a dataclass `sampling`" if callable(found) else "__call__")
        raise OpeningError(
            f"{origin}: gives a {type(found).__name__}, expected an editor (mmig/editor.py); it has not {missing}"
        )
    return found
