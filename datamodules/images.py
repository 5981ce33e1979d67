"""Encoded images -> PIL RGB, masks -> PIL "L". Whatever is wrong with the bytes becomes a `BadSample`.

Only three decoders are ever started for shards (PNG, JPEG, WebP), chosen by the first bytes, whatever a file is called:
others can run programs. JPEGs take the fast way of `jpeg` where they are ordinary, everything else is Pillow's. What a
picture looks like that is not plain RGB is decided in `pixels`.
"""

from __future__ import annotations

import io
import zlib

from PIL import Image, UnidentifiedImageError

from datamodules.faults import BadSample
from datamodules.jpeg import decode_plain_jpeg, reduction
from datamodules.pixels import DECODER_ERRORS, to_mask, to_rgb

MAX_PIXELS = 64 * 2**20
_PNG = b"\x89PNG\r\n\x1a\n"
_USERS_FORMATS = ("AVIF", "BMP", "GIF", "TIFF")
"""What a user may show beside the three: formats that run no programs either, and of which shards need none."""


def decode_image(
    field: str,
    data: bytes | memoryview,
    mask: bool = False,
    least_size: tuple[int, int] | None = None,
    users_own: bool = False,
) -> Image.Image:
    """Encoded image -> upright PIL RGB, as `pixels.to_rgb` says, or a mask, as `pixels.to_mask` says.

    Of an animation the first picture counts. EXIF data that cannot be read turn nothing.

    Args:
        field: what the image is, for messages. mask: to a mask ("L") rather than RGB.
        least_size: decode JPEGs at a half, a quarter or an eighth of their size where they cover so much (height,
            width) even so; None decodes them whole. Masks are always whole.
        users_own: read AVIF, BMP, GIF and TIFF too.

    Raises:
        BadSample: "empty", "format", "bomb", "image" or "mask".
    """
    if len(data) == 0:
        raise BadSample("empty", f"{field}: no bytes")
    data, kinds = bytes(data), _formats(bytes(data[:12]), users_own)
    if not kinds:
        expected = "PNG, JPEG, WebP, AVIF, BMP, GIF or TIFF" if users_own else "PNG, JPEG or WebP"
        raise BadSample("format", f"{field}: expected {expected}, found {data[:8]!r}")
    is_jpeg = kinds == ("JPEG",)
    has_exif = is_jpeg and b"Exif\0\0" in data
    if least_size and has_exif:  # which may turn it
        least_size = max(least_size), max(least_size)
    try:
        if is_jpeg and not mask and (plain := decode_plain_jpeg(data, least_size, MAX_PIXELS)):
            return _explained(plain, data) if has_exif or b"ICC_PROFILE\0" in data else plain
        if kinds == ("PNG",):
            _compare_checksums(data)
        image = Image.open(io.BytesIO(data), formats=kinds)
        if image.width * image.height > MAX_PIXELS:
            raise BadSample("bomb", f"{field}: {image.width}x{image.height} pixels, at most {MAX_PIXELS} are read")
        if 0 in image.size:
            raise BadSample("empty", f"{field}: an image without pixels")
        if not mask and (factor := reduction(image.size[::-1], least_size)) > 1:
            image.draft("RGB", (image.width // factor, image.height // factor))  # for JPEG alone
        image.load()
        return to_mask(field, image) if mask else to_rgb(image)
    except Image.DecompressionBombError as error:
        raise BadSample("bomb", f"{field}: {error}") from error
    except UnidentifiedImageError as error:  # whose message names an object in memory
        raise BadSample("image", f"{field}: begins as an image, but is none that can be read") from error
    except DECODER_ERRORS as error:
        raise BadSample("image", f"{field}: {error}") from error


def _formats(start: bytes, users_own: bool) -> tuple[str, ...]:
    """The decoders that may try a file that begins so."""
    if start.startswith(b"\xff\xd8\xff"):
        return ("JPEG",)
    if start.startswith(_PNG):
        return ("PNG",)
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return ("WEBP",)
    if not users_own or not (start.startswith((b"BM", b"GIF8", b"II", b"MM")) or start[4:8] == b"ftyp"):
        return ()
    Image.init()
    return tuple(kind for kind in _USERS_FORMATS if kind in Image.OPEN)  # Pillow may be built without some


def _explained(plain: Image.Image, data: bytes) -> Image.Image:
    """A plainly decoded JPEG as its header says that it looks."""
    header = Image.open(io.BytesIO(data), formats=("JPEG",))
    image = plain.getchannel(0) if header.mode == "L" else plain  # of which colour profiles of their own speak
    image.info |= header.info
    return to_rgb(image)


def _compare_checksums(data: bytes) -> None:
    """Compare the checksum of each chunk of a PNG, which Pillow does not do for pixels."""
    place = len(_PNG)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        if end <= len(data) and zlib.crc32(data[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise ValueError(f"wrong checksum in the chunk {data[place + 4 : place + 8]!r} of a PNG")
        place = end
