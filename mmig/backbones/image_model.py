"""Image transformers with a class token (DINO, DINOv2, other ViTs of transformers) and what their folder says of the
pictures that they take.
"""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmig.backbones.files import read_json
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.parts import IMAGE_MODEL, BackboneError

_HEADS = r"(.*\.)?(pooler|classifier|decoder|head)\."
"""Weights behind the features."""


@dataclass(frozen=True)
class ImageModel:
    """An image transformer and its constants.

    Attributes:
        model: normalised pixels [B,3,S,S] -> `last_hidden_state` [B,1+tokens,D], the class token first; frozen, eval.
        image_size: S, pixels.
        mean, std: of the normalisation, for images in [0,1].
    """

    model: nn.Module
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_image_model(path: Source) -> ImageModel:
    """A model of transformers whose `last_hidden_state` begins with a class token, in float32.

    Args:
        path: hub id or folder with config.json, preprocessor_config.json and weights, such as facebook/dino-vits16.

    Raises:
        BackboneError: missing or broken files, a model without a class token, or a preprocessing that is not square.
    """
    from transformers import MODEL_MAPPING, AutoConfig

    folder = locate(path, IMAGE_MODEL)
    try:
        model_class = MODEL_MAPPING[type(AutoConfig.from_pretrained(folder, local_files_only=True))]
    except (KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BackboneError(f"{folder / 'config.json'}: expected a model of transformers: {reason}") from error
    takes_pooler = "add_pooling_layer" in inspect.signature(model_class).parameters
    options = {"add_pooling_layer": False} if takes_pooler else {}
    model = load_strictly(model_class, folder, torch.float32, ignore=_HEADS, **options)
    if not any(name.endswith("cls_token") for name, _ in model.named_parameters()):
        raise BackboneError(
            f"{folder}: expected an image model with a class token (ViT, DINO, DINOv2), found {model_class.__name__}"
        )
    file = folder / "preprocessor_config.json"
    settings = read_json(file)
    mean, std = (_three(settings, name, file) for name in ("image_mean", "image_std"))
    return ImageModel(prepare(model, frozen=True, gradient_checkpointing=False), _side(settings, file), mean, std)


def _side(settings: dict[str, Any], file: Path) -> int:
    """Side of what the model sees: of the crop where there is one."""
    name = "crop_size" if settings.get("do_center_crop") else "size"
    size = settings.get(name)
    sides = set(size.values()) if isinstance(size, dict) else {size}
    if len(sides) != 1 or not isinstance(side := sides.pop(), int):
        raise BackboneError(f"{file}: {name}: expected one number of pixels for both sides, found {size!r}")
    return side


def _three(settings: dict[str, Any], name: str, file: Path) -> tuple[float, float, float]:
    values = settings.get(name)
    if not isinstance(values, list) or len(values) != 3:
        raise BackboneError(f"{file}: {name}: expected three numbers, found {values!r}")
    return tuple(float(value) for value in values)
