"""Encoded images -> PIL RGB, masks -> PIL "L". Whatever is wrong with the bytes becomes a `BadSample`.

Only three decoders are ever started (PNG, JPEG, WebP), chosen by the first bytes, whatever a file is called: others can
run programs. JPEGs take the fast way of `jpeg` where they are ordinary, everything else is Pillow's.
"""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image, ImageOps

from datamodules.faults import BadSample
from datamodules.jpeg import decode_plain_jpeg, reduction

MAX_PIXELS = 64 * 2**20
_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
# what Pillow's decoders raise on damaged files, beyond its own UnidentifiedImageError (an OSError)
_DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, MemoryError),
    *(AssertionError, NotImplementedError, struct.error, zlib.error),
)


def decode_image(
    field: str, data: bytes | memoryview, mask: bool = False, least_size: tuple[int, int] | None = None
) -> Image.Image:
    """Encoded image -> PIL RGB (or "L"): transparency over white, 16 bits scaled to 8, EXIF orientation applied.

    Of an animation the first picture counts. EXIF data that cannot be read turn nothing.

    Args:
        field: what the image is, for messages. mask: to "L" rather than RGB.
        least_size: decode JPEGs at a half, a quarter or an eighth of their size where they cover so much (height,
            width) even so; None decodes them whole. Masks are always whole.

    Raises:
        BadSample: "empty", "format", "bomb" or "image".
    """
    if len(data) == 0:
        raise BadSample("empty", f"{field}: no bytes")
    data, kind = bytes(data), _format(data)
    if kind is None:
        raise BadSample("format", f"{field}: expected PNG, JPEG or WebP, found {bytes(data[:8])!r}")
    has_exif = kind == "JPEG" and b"Exif\0\0" in data
    if least_size and has_exif:  # which may turn it
        least_size = max(least_size), max(least_size)
    try:
        if kind == "JPEG" and not mask and (plain := decode_plain_jpeg(data, least_size, MAX_PIXELS)):
            if has_exif:
                plain.info |= Image.open(io.BytesIO(data), formats=(kind,)).info
            return _upright(plain)
        if kind == "PNG":
            _compare_checksums(data)
        image = Image.open(io.BytesIO(data), formats=(kind,))
        if image.width * image.height > MAX_PIXELS:
            raise BadSample("bomb", f"{field}: {image.width}x{image.height} pixels, at most {MAX_PIXELS} are read")
        if 0 in image.size:
            raise BadSample("empty", f"{field}: an image without pixels")
        if not mask and (factor := reduction(image.size[::-1], least_size)) > 1:
            image.draft("RGB", (image.width // factor, image.height // factor))  # for JPEG alone
        image.load()
        return _to_mode(_upright(image), "L" if mask else "RGB")
    except Image.DecompressionBombError as error:
        raise BadSample("bomb", f"{field}: {error}") from error
    except _DECODER_ERRORS as error:
        raise BadSample("image", f"{field}: {error}") from error


def _format(data: bytes | memoryview) -> str | None:
    start = bytes(data[:12])
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start.startswith(_PNG):
        return "PNG"
    return "WEBP" if start[:4] == b"RIFF" and start[8:] == b"WEBP" else None


def _compare_checksums(data: bytes) -> None:
    """Compare the checksum of each chunk of a PNG, which Pillow does not do for pixels."""
    place = len(_PNG)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        if end <= len(data) and zlib.crc32(data[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise ValueError(f"wrong checksum in the chunk {data[place + 4 : place + 8]!r} of a PNG")
        place = end


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
