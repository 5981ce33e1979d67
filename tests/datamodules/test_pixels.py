"""What a picture of any kind looks like, and what a mask may look like: decided once, by numbers computed apart."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from datamodules.faults import BadSample
from datamodules.images import decode_image
from datamodules.pixels import same_shape, to_mask, to_rgb
from tests.datamodules.damage import encoded, gradient
from tests.datamodules.kinds_of_images import exif, rgb, swapped_profile

RAMP = np.tile(np.arange(256, dtype="u1"), (4, 1))
PICTURE = gradient(3, 24)[:16]
ARROW = np.zeros((8, 12), "u1")
ARROW[1:3, 2:7] = 1


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB" and not {"exif", "icc_profile", "transparency"} & set(image.info)
    return np.asarray(image)


def linear_grey_profile() -> bytes:
    """A colour profile of greys whose values are light itself: its curve is a straight line."""
    return profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": b"curv\0\0\0\0" + bytes(4)})


def ink_profile() -> bytes:
    """A colour profile of CMYK whose black is even in lightness: L* = 100 (1 - K); other inks as black."""
    ramp, dark = bytes(range(256)), np.array(np.meshgrid(*[[0, 1]] * 4, indexing="ij")).max(axis=0).ravel()
    corners = b"".join(bytes([255 * (1 - int(ink)), 128, 128]) for ink in dark)
    matrix = struct.pack(">9I", *(0x10000 if place % 4 == 0 else 0 for place in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + corners + ramp * 3
    return profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def profile(kind: bytes, colours: bytes, space: bytes, more: dict[bytes, bytes]) -> bytes:
    white = b"XYZ \0\0\0\0" + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    described = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78 + 3)
    tags = {b"desc": described, b"cprt": b"text\0\0\0\0test\0", b"wtpt": white, **more}
    place, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">2I", place + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s", place + len(body), 0x02100000, kind, colours, space) + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + table + body


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_count_by_their_upper_eight(mode: str) -> None:
    deep = RAMP.astype("u2") * 256 + 200
    image = Image.frombytes(mode, RAMP.shape[::-1], deep.astype(">u2" if mode.endswith("B") else "<u2").tobytes())
    assert np.array_equal(pixels(to_rgb(image)), rgb(RAMP))


def test_floats_are_from_black_to_white_and_other_ranges_are_refused() -> None:
    assert np.array_equal(pixels(to_rgb(Image.fromarray(RAMP / np.float32(255)))), rgb(RAMP))
    for wrong in (RAMP.astype("f4"), RAMP / np.float32(255) - 1, np.full((2, 2), np.nan, "f4")):
        with pytest.raises(ValueError, match=r"floats from .*; expected 0, black, to 1, white"):
            to_rgb(Image.fromarray(wrong))
    with pytest.raises(ValueError, match="32-bit integers"):
        to_rgb(Image.fromarray(RAMP.astype("i4")))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_kinds_of_colours_are_those_of_pillow(mode: str) -> None:
    image = Image.fromarray(PICTURE).convert(mode)
    assert np.array_equal(pixels(to_rgb(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La"])
def test_transparency_is_put_on_white(mode: str) -> None:
    shades, alpha = np.full((2, 3), 100, "u1"), np.array([[0, 51, 102], [153, 204, 255]], "u1")
    bands = [shades] * (3 if mode.startswith("R") else 1)
    image = Image.fromarray(np.dstack([*bands, alpha]), "RGBA" if len(bands) == 3 else "LA").convert(mode)
    expected = np.round(shades * (alpha / 255) + 255 * (1 - alpha / 255))
    assert np.abs(pixels(to_rgb(image))[..., 0] - expected).max() <= 2


def test_plain_pictures_are_returned_themselves_and_nothing_changes_its_input() -> None:
    plain = Image.fromarray(PICTURE)
    assert to_rgb(plain) is plain
    told = Image.open(io.BytesIO(encoded(PICTURE, icc_profile=swapped_profile(), exif=exif(6))))
    shown = to_rgb(told)
    assert "icc_profile" in told.info and np.array_equal(np.asarray(told), PICTURE)
    assert to_rgb(shown) is shown


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_obeyed_once_in_every_format(kind: str, turn: int) -> None:
    settings = {"WEBP": {"lossless": True}, "JPEG": {"quality": 97, "subsampling": 0}}.get(kind, {})
    data = encoded(PICTURE, kind, exif=exif(turn), **settings)
    upright = {
        1: PICTURE, 2: PICTURE[:, ::-1], 3: PICTURE[::-1, ::-1], 4: PICTURE[::-1], 5: PICTURE.transpose(1, 0, 2),
        6: np.rot90(PICTURE, -1), 7: PICTURE[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(PICTURE),
    }[turn]  # fmt: skip
    for image in (decode_image("a", data), to_rgb(Image.open(io.BytesIO(data)))):
        assert np.abs(pixels(image).astype(int) - upright).mean() < (3 if kind == "JPEG" else 1e-9)


def test_other_data_than_exif_turn_nothing() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(PICTURE, "WEBP", lossless=True, xmp=xmp)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6  # as Pillow alone would read it
    assert np.array_equal(pixels(decode_image("a", data)), PICTURE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_colours_are_those_of_the_profile(kind: str) -> None:
    data = encoded(PICTURE, kind, icc_profile=swapped_profile(), **({"quality": 97} if kind == "JPEG" else {}))
    assert np.abs(pixels(decode_image("a", data)).astype(int) - PICTURE[..., [1, 0, 2]]).mean() < 3
    clear = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, "u1")])
    found = decode_image("a", encoded(clear, icc_profile=swapped_profile()))
    assert np.abs(pixels(found).astype(int) - PICTURE[..., [1, 0, 2]]).max() <= 2


def shade(light: np.ndarray) -> np.ndarray:
    """Light in [0,1] -> sRGB in [0,255]."""
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def test_a_profile_of_inks_is_obeyed() -> None:
    image = Image.fromarray(np.stack([*[np.zeros_like(RAMP)] * 3, RAMP], axis=-1), "CMYK")
    image.info["icc_profile"] = ink_profile()
    lightness = 100 * (1 - RAMP / 255.0)
    light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    assert np.abs(pixels(to_rgb(image)) - rgb(shade(light))).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_grey_profile_is_obeyed_too(kind: str) -> None:
    expected = shade(RAMP / 255)
    data = encoded(RAMP, kind, icc_profile=linear_grey_profile(), **({"quality": 100} if kind == "JPEG" else {}))
    difference = np.abs(pixels(decode_image("a", data)) - rgb(expected))
    assert difference[:, 8:].max() <= 2 and difference.mean() < 1


def test_profiles_of_srgb_and_of_other_colours_leave_the_pixels_alone() -> None:
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, linear_grey_profile(), b"rubbish", b"x" * (5 * 2**20)):
        image = Image.fromarray(PICTURE)
        image.info["icc_profile"] = profile
        assert np.array_equal(pixels(to_rgb(image)), PICTURE)


INSIDE = [
    ("0 and 1", ARROW),
    ("0 and 255", ARROW * 255),
    ("0 and 2", ARROW * 2),
    ("booleans", ARROW.astype(bool)),
    ("16 bits, 0 and 1", ARROW.astype("u2")),
    ("16 bits, 0 and 65535", ARROW.astype("u2") * 65535),
    ("32 bits, 0 and 1", ARROW.astype("i4")),
    ("floats, 0 and 1", ARROW.astype("f4")),
    ("floats, 0 and 255", ARROW.astype("f4") * 255),
    ("red on black", ARROW[..., None] * np.uint8([120, 0, 0])),
    ("the faintest blue on black", ARROW[..., None] * np.uint8([0, 0, 1])),
    ("yellow on dark blue", np.where(ARROW[..., None] == 1, np.uint8([255, 255, 0]), np.uint8([0, 0, 120]))),
    ("black, seen through", np.dstack([np.zeros((8, 12, 3), "u1"), ARROW * 255])),
    ("white, seen through", np.dstack([np.full((8, 12, 3), 255, "u1"), ARROW * 255])),
]


@pytest.mark.parametrize(("what", "values"), INSIDE, ids=[what for what, _ in INSIDE])
def test_a_mask_of_any_kind_is_black_and_white(what: str, values: np.ndarray) -> None:
    mask = to_mask("mask", Image.fromarray(values))
    assert mask.mode == "L" and np.array_equal(np.asarray(mask) >= 128, ARROW == 1), what


def test_masks_keep_their_shades_and_their_emptiness() -> None:
    soft = Image.fromarray(np.linspace(0, 255, 96).astype("u1").reshape(8, 12))
    assert to_mask("mask", soft) is soft
    for value, inside in ((0, False), (1, True), (255, True)):
        assert (np.asarray(to_mask("mask", Image.new("L", (3, 2), value))) >= 128).all() == inside
        assert (np.asarray(to_mask("mask", Image.new("L", (3, 2), value))) >= 128).any() == inside


def test_a_mask_that_nobody_can_see_is_empty() -> None:
    assert not np.asarray(to_mask("mask", Image.new("RGBA", (3, 2), (255, 255, 255, 0)))).any()


def test_a_mask_is_turned_as_its_picture_is() -> None:
    data = encoded(ARROW, exif=exif(6))
    assert np.array_equal(np.asarray(decode_image("mask", data, mask=True)), np.rot90(ARROW * 255, -1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.arange(96, dtype="u1").reshape(8, 12), r"m: no pixel is bright \(shades from 0 to 95 of 255\)"),
        (np.arange(96, dtype="u2").reshape(8, 12), "m: no pixel is bright"),
        (np.dstack([gradient(1, 12)[:8], ARROW * 255]), "m: a coloured picture with transparent parts"),
        (np.full((2, 2), np.nan, "f4"), "m: values that are no numbers"),
    ],
)
def test_what_says_nothing_is_no_mask(values: np.ndarray, message: str) -> None:
    with pytest.raises(BadSample, match=message) as caught:
        to_mask("m", Image.fromarray(values))
    assert caught.value.reason == "mask"


def test_shapes_agree_up_to_rounding() -> None:
    assert same_shape((640, 480), (64, 48)) and same_shape((333, 500), (213, 320))
    assert not same_shape((640, 480), (480, 640)) and not same_shape((100, 100), (100, 97))
