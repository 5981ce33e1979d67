"""Exported folders: what makes one an editor, and one as the start of a new run.

`TrainingModule.export` writes them: a sub-folder a part in diffusers' layout. A folder that edits images also has
`editor.yaml`, which says what opens it: `class_path` of a function and, if any, `init_args`; whoever opens the folder
adds `path`, which is the folder.
"""

from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmig.backbones.files import weight_files
from mmig.backbones.fingerprint import fingerprint
from mmig.backbones.named import Origin
from mmig.base.files import write_text
from mmig.checkpoints.files import CheckpointError
from mmig.training.module import TrainingModule

EDITOR_FILE = "editor.yaml"
"""In an exported folder: the function of its method that opens it."""


def write_editor(folder: Path, class_path: str, **init_args: Any) -> None:
    """Write editor.yaml.

    Args:
        folder: the exported one.
        class_path: of a function `open_editor(path, ...)` that gives its `Editor`.
        init_args: its other arguments as plain values; None is left out.
    """
    entry: dict[str, Any] = {"class_path": class_path}
    if given := {name: value for name, value in init_args.items() if value is not None}:
        entry["init_args"] = given
    write_text(folder / EDITOR_FILE, yaml.safe_dump(entry, sort_keys=False))


def read_parts(module: TrainingModule, folder: Path) -> dict[str, Any] | None:
    """An exported folder, or a published one in its layout, in the form of a checkpoint; None where it is neither.

    It gives the weights that `module` stores, of the parts that it declares as `exported_parts`, and the fingerprints
    of the folder's backbones, so that `init_weights` refuses a module with others.

    Raises:
        CheckpointError: weights that cannot be read, or a frozen weight of such a part that is not the module's.
        BackboneError: a backbone of the folder is broken.
    """
    parts = {name: folder / name for name in module.exported_parts}
    if not parts or not all((place / "config.json").is_file() for place in parts.values()):
        return None
    weights: dict[str, Tensor] = {}
    for name, place in parts.items():
        prefix = module.exported_parts[name]
        weights |= {f"{prefix}.{key}": value for key, value in _weights(place).items()}
    origins = {
        name: origin for name, origin in module.origins.items() if name not in parts and (folder / name).is_dir()
    }
    backbones = {
        name: {"path": str(folder / name), "fingerprint": fingerprint(Origin(str(folder / name), origin.part))}
        for name, origin in origins.items()
        if name in module.describe_backbones()
    }
    return {"state_dict": _stored(module, weights, folder), "step": 0, "backbones": backbones}


def _weights(place: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    try:
        for file in weight_files(place):
            weights |= load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {place}: {error}; export the run again") from error
    return weights


def _stored(module: TrainingModule, weights: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Of the weights those that the module stores, or does not know; the frozen others must be its own."""
    own, stored = module.state_dict(), module.stored_names()
    for name in own.keys() & weights.keys() - stored:
        given = weights.pop(name)
        if own[name].shape != given.shape or not own[name].to("cpu", given.dtype).equal(given):
            raise CheckpointError(
                f"--init_from {folder}: its {name} is not that of the backbone of {type(module).__name__}, which stays "
                "frozen; name the folder as that backbone, or start from another one"
            )
    return weights
