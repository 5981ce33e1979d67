"""Encoded image -> its size, from its header alone."""

from __future__ import annotations

import io
import struct

from PIL import Image

from datamodules.faults import BadSample
from datamodules.pixels import ON_ITS_SIDE, orientation

_FORMATS = ("PNG", "JPEG", "WEBP")  # those that `images` decodes
# what Pillow raises on headers that are damaged or cut, beyond its own UnidentifiedImageError (an OSError)
_HEADER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, struct.error)


def upright_size(data: bytes | memoryview) -> tuple[int, int]:
    """Encoded image, or its first bytes -> (width, height), turned as its EXIF data say; no pixel is decoded.

    Raises:
        BadSample: "image", when these bytes do not say it.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            turned = orientation(image.info) in ON_ITS_SIDE
            return (image.height, image.width) if turned else image.size
    except (*_HEADER_ERRORS, Image.DecompressionBombError) as error:
        raise BadSample("image", str(error)) from error
