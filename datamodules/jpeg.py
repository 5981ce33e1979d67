"""Ordinary JPEGs -> PIL RGB by libjpeg-turbo as simplejpeg brings it: the pixels of Pillow in about half its time.

See `bench/jpeg.py` for the decoders compared, and `images` for what is not ordinary.
"""

from __future__ import annotations

import re

import simplejpeg
from PIL import Image

SMALLEST = 64
"""Pixels that a reduced picture keeps along each side; below, rounding to whole pixels would bend it."""
_FACTORS = ((8, 16), (4, 6), (2, 2))
"""Factor, and how many times as large as needed a picture must be for it: what keeps the pixels within 2/255."""
_ORDINARY = ("YCbCr", "RGB", "Gray")
_LOST = re.compile(r"bad Huffman code|remature end|Unsupported marker|\d{2,} extraneous bytes")
"""In libjpeg's warnings: a part of the picture is lost. Others, such as of a few bytes too many, cost nothing."""


def reduction(size: tuple[int, int], least_size: tuple[int, int] | None) -> int:
    """By which factor a JPEG can be reduced while decoding, and still cover `least_size` as well (None: by 1).

    Both sizes in the same order of height and width.
    """
    if least_size is None:
        return 1
    ratio = min(side / max(least, SMALLEST) for side, least in zip(size, least_size, strict=True))
    return next((factor for factor, needed in _FACTORS if ratio >= needed), 1)


def decode_plain_jpeg(data: bytes, least_size: tuple[int, int] | None, most_pixels: int) -> Image.Image | None:
    """An ordinary JPEG -> PIL RGB as it is stored; None for one that Pillow must see to (CMYK, too large, odd).

    Args:
        data: the whole file. least_size: see `images.decode_image`. most_pixels: more are none of ours.

    Raises:
        ValueError: a part of the picture is lost.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in _ORDINARY or not 0 < height * width <= most_pixels:
            return None
        factor = reduction((height, width), least_size)
        pixels = simplejpeg.decode_jpeg(data, "RGBX", min_height=-(-height // factor), min_width=-(-width // factor))
    except ValueError as error:
        if _LOST.search(str(error)):
            raise
        return None
    return Image.frombytes("RGB", pixels.shape[1::-1], pixels.data, "raw", "RGBX")
