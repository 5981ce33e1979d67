"""Value ranges of images: metrics work on floats in [0,1]; batches and editors hold [-1,1].

A tensor in the wrong range gives plausible but wrong scores, so ranges are checked here and nowhere guessed.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_TOLERANCE = 1e-3
RESIZING = "Pillow's bicubic with antialiasing, of 256 levels a channel"
"""The rule by which an edited picture takes the size of its sample's images."""


class ImageRangeError(ValueError):
    """An image tensor has another shape, type or value range than declared."""


def check_range(images: Tensor, low: float, high: float, name: str = "images") -> None:
    """Refuse images that are not [B,3,H,W] or leave [low, high]; NaN passes, it is counted later.

    Raises:
        ImageRangeError: naming the tensor, the expected range and the found one.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ImageRangeError(f"{name}: expected shape [B,3,H,W], found {tuple(images.shape)}")
    if images.numel() == 0:
        return
    smallest, largest = (float(value) for value in torch.nan_to_num(images.detach(), nan=low).aminmax())
    if smallest < low - _TOLERANCE or largest > high + _TOLERANCE:
        raise ImageRangeError(
            f"{name}: expected values in [{low:g},{high:g}], found [{smallest:.3f},{largest:.3f}]; "
            "convert with mmig.metrics.images.signed_to_unit, or use a compat preprocessing that takes [-1,1]"
        )


def as_unit(images: Tensor, name: str = "images") -> Tensor:
    """Images uint8 in 0..255 or float in [0,1] -> float32 [B,3,H,W] in [0,1].

    Raises:
        ImageRangeError: for floats outside [0,1], such as images in [-1,1].
    """
    if images.dtype == torch.uint8:
        images = images.float() / 255
    check_range(images, 0.0, 1.0, name)
    return images.float().clamp(0, 1)


def signed_to_unit(images: Tensor, name: str = "images") -> Tensor:
    """Images in [-1,1], as batches and editors hold them -> float32 in [0,1].

    Raises:
        ImageRangeError: for values outside [-1,1].
    """
    check_range(images, -1.0, 1.0, name)
    return ((images.float() + 1) / 2).clamp(0, 1)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B,3,H,W] in another size, by the rule `RESIZING`.

    Args:
        images: uint8, or float in [0,1], which is rounded to 256 levels first.
        size: (height, width).

    Returns:
        float32 [B,3,height,width] in [0,1] of 256 levels, where `images` were; all NaN of one that is not finite.
    """
    pixels = images.permute(0, 2, 3, 1).cpu() if images.dtype == torch.uint8 else to_bytes(images)
    wanted = size[1], size[0]
    pictures = [Image.fromarray(one.numpy()).resize(wanted, Image.Resampling.BICUBIC) for one in pixels.contiguous()]
    levels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    broken = ~images.isfinite().flatten(1).all(1)
    return (levels.to(images.device).float() / 255).masked_fill(broken.view(-1, 1, 1, 1), torch.nan)


def resized_signed(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The same of images in [-1,1], as editors and batches hold them."""
    return resized(signed_to_unit(images), size) * 2 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Images float in [0,1] -> uint8 [B,H,W,3] on the CPU, rounded to nearest; NaN becomes black."""
    scaled = (torch.nan_to_num(images.detach(), nan=0.0).clamp(0, 1) * 255).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu()
