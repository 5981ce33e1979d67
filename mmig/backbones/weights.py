"""Weights by name: read from a file without running anything in it, and put into a model that was built without any."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from mmig.backbones.loading import refuse_wrong
from mmig.backbones.parts import BackboneError
from mmig.base.paths import looked_in

Model = TypeVar("Model", bound=nn.Module)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names, in the precision in which they are stored.

    Args:
        file: .safetensors, or a mapping of tensors that torch saved, whatever its name. Objects are not unpickled.

    Raises:
        BackboneError: no such file, unreadable, or something else than tensors by name.
    """
    if not file.is_file():
        raise BackboneError(f"{file}: expected a file of weights, found none{looked_in(file)}; correct the path")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors raise their own kinds
        reason = " ".join(str(error).split())[:200]
        raise BackboneError(f"{file}: cannot be read as weights: {reason}; fetch the file again") from error
    if not isinstance(content, dict):
        raise BackboneError(f"{file}: expected tensors by name, found {type(content).__name__}; give a state dict")
    if not all(isinstance(value, Tensor) for value in content.values()):
        raise BackboneError(f"{file}: expected tensors by their names, found {_kinds(content)}; give another file")
    return content


def weight(state: Mapping[str, Tensor], name: str, dims: int, file: str | Path) -> Tensor:
    """One of the weights of a file.

    Args:
        state: all of them.
        name: of the one.
        dims: how many dimensions it must have.
        file: where they come from, for errors.

    Raises:
        BackboneError: it is not there, or has other dimensions.
    """
    if name not in state:
        raise BackboneError(f"{file}: expected {name}, found none among its {len(state)} weights; give another file")
    if state[name].ndim != dims:
        raise BackboneError(
            f"{file}: {name}: expected {dims} dimensions, found shape {tuple(state[name].shape)}; give another file"
        )
    return state[name]


def fill(model: Model, state: Mapping[str, Tensor], file: str | Path, spelled: Callable[[str], str] = str) -> Model:
    """Give a model exactly these weights, in their own precision and without a copy.

    Args:
        model: built on torch's meta device, without memory. Buffers that no file stores stay there: save such a model,
            and open it anew to compute with it.
        state: by the names of the file.
        file: where they come from, for errors.
        spelled: the file's name for a weight of the model.

    Raises:
        BackboneError: a missing, unexpected or differently shaped weight.
    """
    own, names = model.state_dict(), {spelled(name): name for name in model.state_dict()}
    shapes = {name: (tuple(state[name].shape), tuple(own[names[name]].shape)) for name in names if name in state}
    wrong = {
        "missing": sorted(names.keys() - state.keys()),
        "unexpected": sorted(state.keys() - names.keys()),
        "of another shape": [f"{name} {a} instead of {b}" for name, (a, b) in shapes.items() if a != b],
    }
    refuse_wrong(wrong, str(file), f"exactly the weights of a {type(model).__name__}", "give another file")
    model.load_state_dict({name: state[theirs] for theirs, name in names.items()}, assign=True)
    return model


def _kinds(content: dict[str, object]) -> str:
    """What a file holds, in words."""
    return ", ".join(sorted({type(value).__name__ for value in content.values()})[:4])
