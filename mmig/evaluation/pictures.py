"""Between PIL images of any kind and size and the tensors that an editor works on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from datamodules.schema import BadSample, decode_image, image_to_tensor, to_rgb
from mmig.metrics.images import signed_to_unit, to_bytes

Pictures = Image.Image | Sequence[Image.Image] | Tensor
TOLERANCE = 1e-3


class PictureError(ValueError):
    """A picture file cannot be used."""


class PictureBatch(NamedTuple):
    """Images as an editor takes them.

    Attributes:
        images: float32 [B,3,H,W] in [-1,1].
        sizes: (width, height) that each result goes back to; None for tensors, which stay as they are.
    """

    images: Tensor
    sizes: list[tuple[int, int]] | None


def read_image(path: Path, option: str = "--image") -> Image.Image:
    """An image file as RGB, as training reads it (`datamodules.pixels.to_rgb`); AVIF, BMP, GIF and TIFF too.

    Raises:
        PictureError: for a missing or unreadable file; `option` says what named it.
    """
    return _read(path, option, mask=False)


def read_mask(path: Path, option: str = "--mask") -> Image.Image:
    """A mask file as "L", inside from 128 on, as training reads it (`datamodules.pixels.to_mask`).

    Raises:
        PictureError: as in `read_image`; for a mask that says nothing too.
    """
    return _read(path, option, mask=True)


def _read(path: Path, option: str, mask: bool) -> Image.Image:
    try:
        return decode_image("its content", path.read_bytes(), mask, users_own=True)
    except FileNotFoundError as error:
        raise PictureError(f"{option} {path}: no such file") from error
    except (OSError, BadSample) as error:
        kind = "a mask" if mask else "an image"
        raise PictureError(f"{option} {path}: cannot be read as {kind} ({error}); give a PNG, JPEG or WebP") from error


def editing_size(size: tuple[int, int], resolution: int | None) -> tuple[int, int]:
    """(width, height) near the shape of `size` whose longer side is `resolution`, both sides multiples of 16.

    None keeps the longer side. The rounding is the only distortion: at 512 pixels at most 8 of them.
    """
    scale = 1.0 if resolution is None else resolution / max(size)
    width, height = (max(1, round(side * scale / 16)) * 16 for side in size)
    return width, height


def as_batch(pictures: Pictures, resolution: int | None) -> PictureBatch:
    """Images for an editor: PIL images resized to `editing_size`, tensors as they are.

    Args:
        pictures: PIL images of any mode and size, one or several, read as `datamodules.pixels.to_rgb` does; or float
            [B,3,H,W] or [3,H,W] in [-1,1].
        resolution: longer side of what PIL images are resized to; None keeps it.

    Raises:
        ValueError: no image, something else, values out of range, or shapes that cannot stand in one batch.
    """
    if isinstance(pictures, Tensor):
        return PictureBatch(_checked(pictures[None] if pictures.ndim == 3 else pictures), None)
    images = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    if not images or not all(isinstance(image, Image.Image) for image in images):
        found = sorted({type(image).__name__ for image in images}) or "none"
        raise ValueError(f"image: expected PIL images, or one tensor [B,3,H,W] in [-1,1], found {found}")
    try:
        images = [to_rgb(image) for image in images]
    except ValueError as error:
        raise ValueError(f"image: {error}; convert it") from error
    sizes = [editing_size(image.size, resolution) for image in images]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"image: the images of a batch must have one shape to be edited at, found {sorted(set(sizes))} (width, "
            "height); give them in calls of their own"
        )
    resized = [
        image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        for image, size in zip(images, sizes, strict=True)
    ]
    return PictureBatch(torch.stack([image_to_tensor(image) for image in resized]), [image.size for image in images])


def to_pil(images: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> list[Image.Image]:
    """PIL images of float [B,3,H,W] in [-1,1], each resized to its (width, height) where sizes are given."""
    found = [Image.fromarray(pixels.numpy()) for pixels in to_bytes(signed_to_unit(images))]
    return [
        image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        for image, size in zip(found, sizes or [image.size for image in found], strict=True)
    ]


def tower_pixels(images: Tensor, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What the image processors of CLIP and BLIP-2 do, differentiable: bicubic antialiased resize, normalisation.

    The whole image is resized and nothing cropped, so the sides' ratio is lost. Nothing is clamped and nothing
    rounded, so that every pixel passes a gradient.

    Args:
        images: float [B,3,H,W], about in [-1,1]; any size from one pixel on.
        size: (height, width) that the image tower expects.
        mean, std: of each channel of images in [0,1].

    Returns:
        float32 [B,3,height,width].

    Raises:
        ValueError: another shape or kind of numbers.
    """
    _check_floats("images", images)
    pixels = (images.float() + 1) / 2
    if tuple(pixels.shape[2:]) != size:
        pixels = F.interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=True)
    mean_values, std_values = (pixels.new_tensor(values).view(3, 1, 1) for values in (mean, std))
    return (pixels - mean_values) / std_values


def _check_floats(name: str, images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape or not images.is_floating_point():
        raise ValueError(
            f"{name}: expected float [B,3,H,W] in [-1,1], found {images.dtype} {list(images.shape)}; convert "
            "greyscale images to RGB"
        )


def _checked(images: Tensor) -> Tensor:
    _check_floats("image", images)
    low, high = (float(value) for value in images.aminmax())
    if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):
        raise ValueError(f"image: expected values in [-1,1], found [{low:g},{high:g}]; scale it, or give a PIL image")
    return images.float()
