"""Ordinary JPEGs -> PIL RGB by libjpeg-turbo as simplejpeg brings it: the pixels of Pillow in about half its time.

See `bench/jpeg.py` for the decoders compared, and `images` for what is not ordinary.
"""

from __future__ import annotations

import re

import simplejpeg
from PIL import Image

SMALLEST = 64
"""Pixels of the short side that a reduced picture keeps; below, rounding to whole pixels would bend it."""
_ORDINARY = ("YCbCr", "RGB", "Gray")
_LOST = re.compile(r"bad Huffman code|remature end|Unsupported marker|\d{2,} extraneous bytes")
"""In libjpeg's warnings: a part of the picture is lost. Others, such as of a few bytes too many, cost nothing."""


def reduction(short_side: int, least_side: int) -> int:
    """By which power of two up to 8 a JPEG can be reduced while decoding, to keep `least_side` pixels (0: by 1)."""
    least = max(least_side, SMALLEST) if least_side else short_side
    return next((factor for factor in (8, 4, 2) if short_side >= factor * least), 1)


def decode_plain_jpeg(data: bytes, least_side: int, most_pixels: int) -> Image.Image | None:
    """An ordinary JPEG -> PIL RGB as it is stored; None for one that Pillow must see to (CMYK, too large, odd).

    Args:
        data: the whole file. least_side: see `images.decode_image`. most_pixels: more are none of ours.

    Raises:
        ValueError: a part of the picture is lost.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in _ORDINARY or not 0 < height * width <= most_pixels:
            return None
        factor = reduction(min(height, width), least_side)
        pixels = simplejpeg.decode_jpeg(data, "RGBX", min_height=-(-height // factor), min_width=-(-width // factor))
    except ValueError as error:
        if _LOST.search(str(error)):
            raise
        return None
    return Image.frombytes("RGB", pixels.shape[1::-1], pixels.data, "raw", "RGBX")
