"""Fault kinds: images and masks."""

from __future__ import annotations

import zlib
from functools import partial

import numpy as np
from PIL import Image, ImageCms

from tests.datamodules.damage import (
    SIDE,
    Content,
    Kind,
    encoded,
    entries,
    gradient,
    jpeg,
    of_entries,
    of_files,
    png_chunk,
    raw_png,
)

RECORD = b'{"instruction": "x"}'
PICTURE = gradient(40)
GREY = PICTURE[..., 0]
MASK = (np.arange(SIDE)[:, None] > np.arange(SIDE)[None]).astype("u1")


def bad(name: str, reason: str, data: Content, member: str = "source.png") -> Kind:
    return Kind(name, of_files({"json": RECORD, member: data}), reason)


def read(name: str, reading: str, data: bytes, expected: np.ndarray, tolerance: float = 0, at: str = "png") -> Kind:
    build = of_files({"json": RECORD, f"source.{at}": data})
    return Kind(name, build, "", None, reading, {"source": expected, "instruction": "x"}, tolerance)


def mask(name: str, reading: str, data: bytes) -> Kind:
    build = of_files({"json": RECORD, "source.png": encoded(PICTURE), "target_mask.png": data})
    return Kind(name, build, "", None, reading, {"source": PICTURE, "target_mask": MASK})


def bad_mask(name: str, data: bytes) -> Kind:
    return Kind(name, of_files({"json": RECORD, "source.png": encoded(PICTURE), "target_mask.png": data}), "mask")


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.round(pixels * share + 255 * (1 - share)).astype("u1")


def palette() -> tuple[Image.Image, np.ndarray]:
    """A picture of four colours and what it looks like."""
    colours = np.array([[250, 10, 20], [0, 200, 30], [9, 8, 255], [77, 66, 55]], "u1")
    numbers = np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 4
    image = Image.new("P", (SIDE, SIDE))
    image.putpalette(colours.tobytes())
    image.putdata(numbers.ravel().tolist())
    return image, colours[numbers]


def cmyk() -> tuple[Image.Image, np.ndarray]:
    inks = np.concatenate([PICTURE // 2, gradient(41)[..., :1] // 3], axis=2)
    looks = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:]) / 255
    return Image.fromarray(inks, "CMYK"), looks.round().astype("u1")


def swapped_profile() -> bytes:
    """sRGB's colour profile with red in the place of green."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def shades() -> bytes:
    """MASK with grey edges: everything from one half on is inside."""
    return encoded(np.where(MASK == 1, np.uint8(128), np.uint8(127)))


def two_colours() -> bytes:
    """MASK in yellow on dark blue."""
    return encoded(np.where(MASK[..., None] == 1, np.uint8([255, 255, 0]), np.uint8([0, 0, 120])))


def mask_palette() -> bytes:
    image = Image.new("P", (SIDE, SIDE))
    image.putpalette(bytes([0, 0, 0, 255, 255, 255]))
    image.putdata(MASK.ravel().tolist())
    return encoded(image)


def one_bit(side: int) -> bytes:
    """A true, empty 1-bit PNG: small as a file, whatever its side."""
    row = bytes(-(-side // 8))
    return raw_png(side, side, 1, 0, (row for _ in range(side)))


def comment_bomb() -> bytes:
    text = b"Comment\0\0" + zlib.compress(bytes(64 * 2**20))
    return raw_png(2, 2, 8, 0, [b"ab", b"cd"], png_chunk(b"zTXt", text))


def flipped(data: bytes, count: int = 8) -> bytes:
    damaged = bytearray(data)
    for place in range(len(data) // 2, len(data) // 2 + count):
        damaged[place] ^= 0xA5
    return bytes(damaged)


FOUR, FOUR_LOOK = palette()
INKS, INKS_LOOK = cmyk()
PAGE = b"<!DOCTYPE html><html><body>429 Too Many Requests</body></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch executed) (w) file\n%%EOF\n"
FOUR_GREY = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype("u1") % 4 * 7
FOUR_WHITE = rgb(np.where(FOUR_GREY == 7, np.uint8(255), FOUR_GREY))
WHITE_TOP = np.where((MASK == 1) | (np.arange(SIDE) > 12), np.uint8(255), np.uint8(0))
ALPHA = np.where((MASK == 0) & (WHITE_TOP == 255), np.uint8(0), np.uint8(255))
WIDE, HIGH = gradient(42, 32)[:16], gradient(42, 32)[:, :16]
GREEN = np.full((SIDE, SIDE, 3), (10, 160, 20), "u1")
SECOND = Image.fromarray(GREEN)
RUBBISH = b"\xd8" * 2**20
LARGE = encoded(np.tile(GREEN, (3, 3, 1)))

KINDS = [
    bad("zero-byte JPEG", "empty", b"", "source.jpg"),
    bad("JPEG cut off", "image", jpeg(PICTURE)[:-200], "source.jpg"),
    bad("PNG cut off", "image", encoded(PICTURE)[:-60]),
    bad("WebP cut off", "image", encoded(PICTURE, "WEBP", lossless=True)[:-40], "source.webp"),
    bad("bytes flipped in a JPEG before it was indexed", "image", flipped(jpeg(gradient(40, 64)), 64), "source.jpg"),
    bad("bytes flipped in a PNG before it was indexed", "image", flipped(encoded(PICTURE))),
    bad("PNG of 30,000 x 30,000 pixels", "bomb", partial(one_bit, 30_000)),
    bad("PNG that claims 60,000 x 60,000 pixels", "bomb", raw_png(60_000, 60_000, 8, 2, [b"abc"])),
    bad("PNG whose comment unpacks to 64 MB", "image", comment_bomb),
    bad("PNG of no width", "image", raw_png(0, 5, 8, 2, [b""] * 5)),
    bad("animated GIF, BMP and other formats", "format", encoded(FOUR, "GIF", save_all=True, append_images=[FOUR])),
    bad("PostScript called .png (some readers run it)", "format", PROGRAM),
    bad("SVG called .png", "format", SVG),
    bad("web page in place of a JPEG", "format", PAGE, "source.jpg"),
    read("CMYK JPEG", "converted to RGB", encoded(INKS, "JPEG", quality=97), INKS_LOOK, 4, "jpg"),
    read("grey JPEG", "three equal channels", jpeg(Image.fromarray(GREY)), rgb(GREY), 2, "jpg"),
    read("16-bit grey PNG", "the upper 8 bits", encoded(GREY.astype("u2") * 257), rgb(GREY), 0.5),
    read(
        "16-bit colour PNG",
        "the upper 8 bits",
        raw_png(SIDE, SIDE, 16, 2, [(row.astype(">u2") * 256 + 99).astype(">u2").tobytes() for row in PICTURE]),
        PICTURE,
    ),
    read("grey PNG", "three equal channels", encoded(GREY), rgb(GREY)),
    read("grey PNG with a transparent grey", "over white", encoded(FOUR_GREY, transparency=7), FOUR_WHITE),
    read(
        "picture whose colour profile is not sRGB's",
        "its colours in sRGB",
        encoded(PICTURE, icc_profile=swapped_profile()),
        PICTURE[..., [1, 0, 2]],
        1.0,
    ),
    read("colour profile that cannot be read", "as if it were not there", encoded(PICTURE, icc_profile=b"x"), PICTURE),
    read("1-bit PNG", "black and white", encoded(Image.fromarray(MASK * 255).convert("1")), rgb(MASK * 255)),
    read("palette PNG", "its colours", encoded(FOUR), FOUR_LOOK),
    read(
        "palette PNG with a transparent colour",
        "over white",
        encoded(FOUR, transparency=2),
        over_white(FOUR_LOOK, np.where((FOUR_LOOK == [9, 8, 255]).all(2), 0, 255)),
    ),
    read("PNG with transparency", "over white", encoded(np.dstack([PICTURE, GREY])), over_white(PICTURE, GREY), 0.6),
    read(
        "animated PNG",
        "its first picture",
        encoded(PICTURE, save_all=True, append_images=[SECOND]),
        PICTURE,
    ),
    read(
        "animated WebP",
        "its first picture",
        encoded(PICTURE, "WEBP", lossless=True, save_all=True, append_images=[SECOND]),
        PICTURE,
        at="webp",
    ),
    read("photograph on its side (EXIF 6)", "turned", jpeg(PICTURE, exif=exif(6)), np.rot90(PICTURE, -1), 2, "jpg"),
    read("mirrored photograph (EXIF 2)", "mirrored back", jpeg(PICTURE, exif=exif(2)), PICTURE[:, ::-1], 2, "jpg"),
    read("EXIF that cannot be read", "not turned", jpeg(PICTURE, exif=b"Exif\0\0rubbish"), PICTURE, 2, "jpg"),
    read("JPEG called .png", "by its content", jpeg(PICTURE), PICTURE, 2),
    read("PNG called .jpg", "by its content", encoded(PICTURE), PICTURE, at="jpg"),
    read("JPEG with 1 MB of rubbish behind it", "without the rubbish", jpeg(PICTURE) + RUBBISH, PICTURE, 2, "jpg"),
    read("picture of one pixel", "enlarged", encoded(GREEN[:1, :1]), GREEN),
    read("picture of 8 x 20,000 pixels", "its middle", encoded(np.tile(GREEN[:1, :1], (20_000, 8, 1))), GREEN),
    Kind(
        "source and target of different shapes",
        of_files({"json": RECORD, "source.png": encoded(WIDE), "target.png": encoded(HIGH)}),
        "size",
    ),
    Kind(
        "source and target of different sizes, one shape",
        of_files({"json": RECORD, "source.png": LARGE, "target.png": encoded(PICTURE)}),
        "",
        None,
        "scaled alike",
        {"source": GREEN, "target": PICTURE},
    ),
    Kind(
        "mask of another shape",
        of_files({"json": RECORD, "source.png": encoded(PICTURE), "target_mask.png": encoded(MASK[:6] * 255)}),
        "size",
    ),
    Kind(
        "mask of another size",
        of_files({"json": RECORD, "source.png": LARGE, "target_mask.png": encoded(MASK * 255)}),
        "",
        None,
        "scaled alike",
        {"source": GREEN, "target_mask": MASK},
    ),
    mask("greyscale mask", "cut at one half", shades()),
    mask("colour mask", "its brightness, cut at one half", two_colours()),
    mask("palette mask", "its colours' brightness, cut at one half", mask_palette()),
    mask("mask of values 0 and 1", "1 is inside", encoded(MASK)),
    mask("16-bit mask of values 0 and 1", "1 is inside", encoded(MASK.astype("u2"))),
    mask(
        "mask of black and a dark colour",
        "what is not black is inside",
        encoded(MASK[..., None] * np.uint8([90, 0, 0])),
    ),
    mask(
        "mask in black and white with transparent parts",
        "these are outside",
        encoded(np.dstack([np.tile(WHITE_TOP[..., None], 3), ALPHA])),
    ),
    mask(
        "stencil: one colour and transparency", "inside where it can be seen", encoded(np.dstack([GREEN, MASK * 255]))
    ),
    bad_mask("dark mask of several values", encoded(np.repeat(np.arange(SIDE, dtype="u1")[None], SIDE, 0))),
    bad_mask("coloured picture with transparent parts as a mask", encoded(np.dstack([PICTURE, MASK * 255]))),
    mask("mask that is a JPEG", "cut at one half", encoded(MASK * 255, "JPEG", quality=97)),
    Kind(
        "mask of a concept that the JSON does not have",
        of_files({"json": RECORD, "concept0.png": encoded(MASK * 255)}),
        "field",
    ),
    Kind(
        "one image as PNG and as JPEG",
        of_files({"json": RECORD, "source.png": encoded(PICTURE), "source.jpg": jpeg(PICTURE)}),
        "repeated",
    ),
    Kind(
        "the same member twice",
        of_entries([*entries("odd", {"json": RECORD}), *entries("odd", {"json": RECORD})]),
        "repeated",
    ),
]
