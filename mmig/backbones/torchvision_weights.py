"""Weights of torchvision's models from a local file: never downloaded here, and read without running code."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmig.backbones.parts import BackboneError
from mmig.base.paths import looked_in, resolved


def weights_file(model: str, weights: str | Path | None = None) -> Path:
    """The local file of a model's weights.

    Args:
        model: torchvision's name, "alexnet", "vgg16", "resnet50" ...
        weights: the file; None for torchvision's default weights where they are in torch's cache already.

    Raises:
        BackboneError: no such model, or no such file.
    """
    if weights is not None:
        file = resolved(weights)
        if not file.is_file():
            raise BackboneError(f"{model}: weights: {weights} is no file{looked_in(file)}; give a .pth or .safetensors")
        return file
    default = default_weights(model)
    file = Path(torch.hub.get_dir()) / "checkpoints" / default.url.rpartition("/")[2]
    if not file.is_file():
        raise BackboneError(
            f"{model}: expected a file of weights, found none, nor {file} in torch's cache; give the file, or run "
            f"python -c 'import torchvision; torchvision.models.{model}(weights=\"DEFAULT\")' where there is a network"
        )
    return file


def default_weights(model: str) -> Any:
    """What torchvision knows of a model's default weights: `url` and `transforms`.

    Raises:
        BackboneError: no such model.
    """
    from torchvision.models import get_model_weights

    try:
        return get_model_weights(model).DEFAULT
    except (ValueError, AttributeError) as error:
        raise BackboneError(f"torchvision has no model {model!r} with weights: {error}") from error


def load_state(module: torch.nn.Module, state: dict[str, Tensor], origin: Path, unused: str = r"(?!)") -> None:
    """Fill a module; every weight must be there and have its place.

    Args:
        unused: pattern of stored weights that the module leaves aside.

    Raises:
        BackboneError: a missing, unexpected or differently shaped weight.
    """
    kept = {name: value for name, value in state.items() if not re.match(unused, name)}
    try:
        module.load_state_dict(kept)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise BackboneError(f"{origin}: these are no weights of {type(module).__name__}: {reason}") from error
