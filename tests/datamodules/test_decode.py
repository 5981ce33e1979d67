"""Decoding: each kind of bad file has its reason, and pictures become upright RGB."""

from __future__ import annotations

import io
import json
import struct
import zlib

import pytest
from PIL import Image

from datamodules.decode import decode
from datamodules.faults import REASONS, BadSample
from tests.datamodules.damage import encoded
from tests.datamodules.make_samples import make_image

GOOD = encoded(make_image(0))
RECORD = json.dumps({"instruction": "x"}).encode()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT", b"IEND")
    packed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("reason", "files"),
    [
        ("json", {"json": b"{"}),
        ("json", {"json": b"\xff\xfe"}),
        ("json", {"json": json.dumps({"instruction": "x", "metadata": "{"}).encode()}),
        ("json", {"json": b"[" * 100_000}),
        ("field", {"json": b"[1]"}),
        ("field", {"json": b'{"instruction": 3}'}),
        ("field", {"json": b'{"unknown": "x"}'}),
        ("field", {"json": b'{"instruction": "x", "concepts": "red"}'}),
        ("field", {"json": RECORD, "concept0.png": GOOD}),
        ("field", {"json": b"{}"}),
        ("text", {"jpg": encoded(make_image(0), "JPEG"), "txt": b"\xff"}),
        ("empty", {"json": RECORD, "source.png": b""}),
        ("image", {"json": RECORD, "source.png": _png_header(0, 5)}),
        ("image", {"json": RECORD, "source.png": GOOD[: len(GOOD) // 2]}),
        ("format", {"json": RECORD, "source.png": b"no picture"}),
        ("format", {"json": RECORD, "source.png": encoded(make_image(0), "GIF")}),
        ("image", {"json": RECORD, "source.png": _png_header(9, 9)}),
        ("bomb", {"json": RECORD, "source.png": _png_header(9000, 9000)}),
        ("bomb", {"json": RECORD, "source.png": _png_header(60000, 60000)}),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_each_kind_of_bad_file_has_its_reason(reason: str, files: dict[str, bytes]) -> None:
    with pytest.raises(BadSample) as caught:
        decode("a", files)
    assert caught.value.reason == reason and reason in REASONS


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "I;16"])
def test_pictures_that_are_not_rgb_are_converted(mode: str) -> None:
    grey = Image.new("L", (4, 4), 100)
    image = Image.new("I;16", (4, 4), 100 * 257) if mode == "I;16" else grey.convert("RGB").convert(mode)
    source = decode("a", {"json": RECORD, "source.png": encoded(image)})["source"]
    assert isinstance(source, Image.Image) and source.mode == "RGB"
    assert mode == "1" or all(abs(value - 100) <= 2 for value in source.getpixel((0, 0)))


def test_a_cmyk_jpeg_is_converted() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    red, green, blue = decode("a", {"json": RECORD, "source.jpg": data})["source"].getpixel((4, 4))
    assert red > 200 and green < 60 and blue < 60


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert decode("a", {"json": RECORD, "source.png": encoded(clear)})["source"].getpixel((0, 0)) == (255, 255, 255)


def test_a_photograph_on_its_side_is_turned() -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(buffer, "JPEG", exif=exif)
    assert decode("a", {"json": RECORD, "source.jpg": buffer.getvalue()})["source"].size == (4, 8)


def test_an_img2dataset_sample_is_a_target_with_its_caption() -> None:
    files = {"jpg": encoded(make_image(0), "JPEG"), "txt": b"a cat", "json": b'{"url": "u", "caption": "a cat"}'}
    sample = decode("000000012", files)
    assert sample["target_caption"] == "a cat" and sample["metadata"]["url"] == "u" and "source" not in sample
