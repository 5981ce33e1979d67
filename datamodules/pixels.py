"""A PIL picture of any kind -> RGB as every door shows it to a model; a mask of any kind -> black and white.

Decided here and nowhere else, for shards, tables, folders of pictures, attachments and the pictures of edit.py and of
pipelines. `images` reads the files, docs/data.md says the same for users.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from datamodules.faults import BadSample

ASPECT_TOLERANCE = 0.02
"""By how much sides may have another ratio: rounding of sizes by the tools that made the images."""
MAX_PROFILE_BYTES = 4 * 2**20
"""More than the colour profile of any printer has."""
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_ITS_SIDE = (5, 6, 7, 8)
_EXPLAINED = ("exif", "icc_profile", "transparency")
"""What a picture's `info` says of how it looks; what `to_rgb` returns looks as its pixels say."""
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_SAME_COLOUR = 2  # of 255: a profile that moves no colour further is sRGB by another name
_TRANSPARENT = 128  # of 255: a pixel of a mask with less alpha is not there
_ONE_COLOUR = 2  # of 255: how far the visible pixels of a stencil may differ
_FLOAT_MARGIN = 1e-3
# what Pillow's decoders raise on damaged files, beyond its own UnidentifiedImageError (an OSError)
DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError),
    *(AssertionError, NotImplementedError, struct.error, zlib.error),
)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL picture as RGB in sRGB; one that is so already is returned itself.

    16 bits (`I;16`) count by their upper 8, floats ("F") from 0, black, to 1, white. Transparency is put on white. A
    colour profile is applied where it fits the picture's kind of colours and is not sRGB's; one that cannot be read is
    none. EXIF orientation turns, other data (XMP) do not.

    Raises:
        ValueError: a kind of pixels that nobody knows the range of.
    """
    if image.mode == "RGB" and not any(name in image.info for name in _EXPLAINED):
        return image
    pixels, alpha = _parts(image)
    rgb = _in_srgb(pixels, image.info.get("icc_profile"))
    if alpha is not None:
        rgb = rgb.convert("RGBA")
        rgb.putalpha(alpha)
        rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), rgb).convert("RGB")
    return _upright(rgb, image)


def to_mask(field: str, image: Image.Image) -> Image.Image:
    """Any PIL picture as a mask: "L", inside from 128 on, in the picture's own shades where it has any.

    Black and one other value or colour (0/1, 0/255, red on black) are outside and inside. Of more shades, or without
    black, those from half brightness on are inside. Transparent pixels are outside; a stencil, which is one colour
    and transparency, is inside where it can be seen. Colour profiles do not count, EXIF orientation does.

    Args:
        field: what the mask is, for messages.

    Raises:
        BadSample: "mask", for one that says nothing: dark all over though not black, or a coloured picture with
            transparent parts, where nobody knows which are meant.
        ValueError: as `to_rgb`.
    """
    if image.mode == "L" and not any(name in image.info for name in _EXPLAINED):
        return _cut(field, image, image)
    if image.mode.startswith(("I", "F")):
        return _upright(_deep_mask(field, image), image)
    pixels, alpha = _parts(image)
    colours = pixels.convert("RGB")
    if alpha is not None and not (shown := np.asarray(alpha) >= _TRANSPARENT).all():
        found = np.asarray(colours)[shown].astype(np.int16)
        if not len(found) or (np.ptp(found, axis=0) <= _ONE_COLOUR).all():
            return _upright(Image.fromarray(shown.astype(np.uint8) * 255), image)
        if np.ptp(found, axis=1).max() > _ONE_COLOUR:
            raise BadSample(
                "mask",
                f"{field}: a coloured picture with transparent parts, which may be the inside or the outside; expected "
                "a mask in black and white",
            )
        colours = Image.composite(colours, Image.new("RGB", colours.size), Image.fromarray(shown))
    return _upright(_cut(field, colours, colours.convert("L")), image)


def orientation(info: Mapping[str, Any]) -> int:
    """How a picture is turned by its EXIF data, 1 to 8; 1, upright, where they cannot be read or say nothing."""
    if "exif" not in info:
        return 1
    try:
        found = Image.Exif()
        found.load(info["exif"])
        value = found.get(_ORIENTATION, 1)
    except DECODER_ERRORS:
        return 1
    return value if value in _TURNS else 1


def same_shape(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) are of one shape, up to rounding, so that one can be scaled to the other."""
    return first == second or abs(first[0] * second[1] / (first[1] * second[0]) - 1) <= ASPECT_TOLERANCE


def _upright(image: Image.Image, like: Image.Image) -> Image.Image:
    """The image turned as the EXIF data of `like` say, which are no longer in it."""
    turn = _TURNS.get(orientation(like.info))
    if turn is not None:
        image = image.transpose(turn)
    if image is like or any(name in image.info for name in _EXPLAINED):
        image = image.copy()
    image.info = {name: value for name, value in image.info.items() if name not in _EXPLAINED}
    return image


def _parts(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours in 8 bits ("L", "RGB" or "CMYK") as they are stored, and alpha ("L") or None."""
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image), None
    if image.mode == "LAB":
        raise ValueError("pixels in Lab colours; expected RGB or grey")
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data or image.mode in ("LA", "PA", "RGBa"):
        kind = "LA" if image.mode in ("L", "LA") else "RGBA"
        whole = image if image.mode == kind else image.convert(kind)
        alpha = whole.getchannel("A")
        return whole.getchannel("L") if kind == "LA" else whole.convert("RGB"), alpha
    if image.mode in ("L", "RGB", "CMYK"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _eight_bits(image: Image.Image) -> Image.Image:
    """A picture of one deeper channel as "L"."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        grey = (values >> 8).astype(np.uint8)
        if isinstance(clear := image.info.get("transparency"), int):
            grey[values == clear] = 255
        return Image.fromarray(grey)
    if image.mode == "F":
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if low >= -_FLOAT_MARGIN and high <= 1 + _FLOAT_MARGIN:
            return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
        raise ValueError(f"pixels that are floats from {low:g} to {high:g}; expected 0, black, to 1, white")
    raise ValueError("pixels of 32-bit integers, of which nobody knows what is white; expected 8 or 16 bits")


def _deep_mask(field: str, image: Image.Image) -> Image.Image:
    """A mask in more than 8 bits: 0 and one other value are told apart before the lower bits are cut off."""
    values = np.asarray(image)
    if values.size and not np.isfinite(values).all():
        raise BadSample("mask", f"{field}: values that are no numbers; expected black and white")
    low, high = values.min(), values.max()
    if low >= 0 and ((values == 0) | (values == high)).all() and (low == 0 or high == 1):
        return Image.fromarray((values > 0).astype(np.uint8) * 255)
    grey = _eight_bits(image)
    return _bright(field, grey)


def _cut(field: str, colours: Image.Image, grey: Image.Image) -> Image.Image:
    """The mask in the shades `grey` of a picture `colours` ("L" or "RGB")."""
    low, high = grey.getextrema()
    if colours.mode == "L" and (low, high) == (0, 255):
        return grey
    found = colours.getcolors(2)  # None for more
    if high == 1 or (found is not None and not all(np.any(value) for _, value in found)):
        inside = np.asarray(colours).reshape(*colours.size[::-1], -1).any(axis=2)
        return Image.fromarray(inside.astype(np.uint8) * 255)
    return _bright(field, grey)


def _bright(field: str, grey: Image.Image) -> Image.Image:
    """Shades of which some are inside."""
    low, high = grey.getextrema()
    if high < 128:
        found = f"{low} to {high} of 255"
        raise BadSample(
            "mask", f"{field}: no pixel is bright (shades from {found}); expected black outside and white inside"
        )
    return grey


def _in_srgb(pixels: Image.Image, profile: bytes | None) -> Image.Image:
    """Pixels "L", "RGB" or "CMYK" as RGB in sRGB."""
    if profile:
        if (found := _transform(profile, pixels.mode)) is not None:
            return found.apply(pixels)
        if pixels.mode == "L" and (found := _transform(profile, "RGB")) is not None:
            return found.apply(pixels.convert("RGB"))
    return pixels if pixels.mode == "RGB" else pixels.convert("RGB")


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a colour profile to sRGB, for pixels of this mode; None where it is for others, is sRGB, or is damaged."""
    if len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _PROFILE_MODES.get(opened.profile.xcolor_space.strip()) != mode:
            return None
        # no cache inside, which threads would share; the white of one is the white of the other
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        made = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)
        palette = _palette(mode)
        moved = np.asarray(made.apply(palette), np.int16) - np.asarray(palette.convert("RGB"), np.int16)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return None
    return made if np.abs(moved).max() > _SAME_COLOUR else None


def _palette(mode: str) -> Image.Image:
    """Colours from all over a mode, as a picture."""
    steps = np.linspace(0, 255, 256 if mode == "L" else 6).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * len(Image.new(mode, (1, 1)).getbands())), axis=-1)
    return Image.fromarray(grid.reshape(1, -1) if mode == "L" else grid.reshape(1, -1, grid.shape[-1]), mode)
