"""MagicBrush's masks in the three forms that are about: transparent where editable, painted, or black and white."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from datamodules.faults import BadSample
from datamodules.images import decode_image

_PAINTED = 24  # of 255: the least difference of a painted pixel, above what JPEG leaves of equal ones


def editable(mask: bytes, source: bytes) -> Image.Image:
    """PIL "L" mask, 255 where the picture may be edited.

    A mask with transparent pixels is editable there. One without any colour at all is black and white, white being
    editable. Any other is the source with the editable region painted white.

    Raises:
        BadSample: as `decode_image`; "size" when a painted copy has another size than the source; "mask" when nothing
            is editable.
    """
    picture = decode_image("mask_img", mask)  # refuses what is too large or no picture
    if (alpha := _alpha(mask)) is not None:
        return _as_mask(alpha < 128)
    pixels = np.asarray(picture).astype(np.int16)
    if (pixels.max(2) - pixels.min(2)).max() <= 2 and _is_binary(pixels[..., 0]):
        return _as_mask(pixels[..., 0] >= 128)
    original = decode_image("source_img", source)
    if original.size != picture.size:
        sizes = " and ".join(f"{image.width}x{image.height}" for image in (original, picture))
        raise BadSample("size", f"mask_img: a painted copy of the source must have its size, found {sizes} pixels")
    white = pixels.min(2) >= 255 - _PAINTED
    return _as_mask(white & (np.abs(pixels - np.asarray(original)).max(2) > _PAINTED))


def _as_mask(inside: np.ndarray) -> Image.Image:
    if not inside.any():
        raise BadSample("mask", "mask_img: nothing in it is editable")
    return Image.fromarray(inside.astype(np.uint8) * 255)


def _alpha(mask: bytes) -> np.ndarray | None:
    """The alpha channel, or None if there is none or nothing is transparent."""
    with Image.open(io.BytesIO(mask), formats=("PNG", "JPEG", "WEBP")) as image:
        if not image.has_transparency_data:
            return None
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
    return alpha if (alpha < 128).any() else None


def _is_binary(values: np.ndarray) -> bool:
    """Whether nearly every value is black or white; edges may be grey."""
    return bool(((values < 16) | (values > 239)).mean() > 0.9)
