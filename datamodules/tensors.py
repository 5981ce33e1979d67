"""One PIL picture -> one tensor, in the ranges of the schema; `schema.collate` puts those of many samples together."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.pixels import to_mask, to_rgb

_HALF, _ONE = np.float32(127.5), np.float32(1)


def image_to_tensor(image: Image.Image) -> Tensor:
    """PIL image, RGB or what `pixels.to_rgb` makes RGB of -> float32 [3,H,W] in [-1,1]."""
    image = to_rgb(image)
    out = torch.empty(3, image.height, image.width)
    fill_image(out, image)
    return out


def mask_to_tensor(mask: Image.Image) -> Tensor:
    """PIL "L" mask -> float32 [1,H,W] in {0,1}, cut at one half."""
    return torch.from_numpy(np.array(mask if mask.mode == "L" else to_mask("mask", mask)) >= 128).float()[None]


def fill_image(out: Tensor, image: Image.Image) -> None:
    """Write an image to `out` [3,H,W] plane by plane, which stay in the processor's cache."""
    planes = to_rgb(image).split()
    for row, plane in zip(out.numpy(), planes, strict=True):
        np.divide(np.asarray(plane), _HALF, out=row)
        np.subtract(row, _ONE, out=row)
