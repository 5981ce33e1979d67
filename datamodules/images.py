"""Encoded images -> PIL RGB, masks -> PIL "L". Whatever is wrong with the bytes becomes a `BadSample`.

Only three decoders are ever started (PNG, JPEG, WebP), whatever a file is called: others can run programs.
"""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image, ImageOps

from datamodules.faults import BadSample

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64 * 2**20
_ORIENTATION = 0x0112
# what Pillow's decoders raise on damaged files, beyond its own UnidentifiedImageError (an OSError)
_DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError),
    *(AssertionError, NotImplementedError, struct.error, zlib.error),
)


def decode_image(field: str, data: bytes | memoryview, mask: bool = False) -> Image.Image:
    """Encoded image -> PIL RGB (or "L"): transparency over white, 16 bits scaled to 8, EXIF orientation applied.

    Of an animation the first picture counts. EXIF data that cannot be read turn nothing.

    Raises:
        BadSample: "empty", "bomb" or "image".
    """
    if len(data) == 0:
        raise BadSample("empty", f"{field}: no bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise BadSample("bomb", f"{field}: {image.width}x{image.height} pixels, at most {MAX_PIXELS} are read")
        if 0 in image.size:
            raise BadSample("empty", f"{field}: an image without pixels")
        image.load()
        return _to_mode(_upright(image), "L" if mask else "RGB")
    except Image.DecompressionBombError as error:
        raise BadSample("bomb", f"{field}: {error}") from error
    except _DECODER_ERRORS as error:
        raise BadSample("image", f"{field}: {error}") from error


def upright_size(data: bytes | memoryview) -> tuple[int, int]:
    """Encoded image, or its first bytes -> (width, height) as `decode_image` would give them; no pixel is decoded.

    Raises:
        BadSample: "image", when these bytes do not say it.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            turned = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) > 4
            return (image.height, image.width) if turned else image.size
    except (*_DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise BadSample("image", str(error)) from error


def _upright(image: Image.Image) -> Image.Image:
    if "exif" not in image.info:
        return image
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
    except _DECODER_ERRORS:
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I"):  # 16-bit PNG; "I" is how some Pillow versions open it
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    elif mode == "RGB" and image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert(mode)
