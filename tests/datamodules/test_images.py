"""Decoding: the fast way gives Pillow's pixels, and scaled decoding nearly those of the whole picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from datamodules.images import decode_image
from datamodules.jpeg import decode_plain_jpeg, reduction
from datamodules.schema import image_to_tensor
from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from datamodules.transforms import ImageTransform

PHOTOGRAPHS = {name: Image.fromarray(getattr(photographs, name)()) for name in ("astronaut", "chelsea", "coffee")}
SETTINGS = {
    "4:2:0": {"quality": 90, "subsampling": 2},
    "4:2:2": {"quality": 75, "subsampling": 1},
    "4:4:4": {"quality": 95, "subsampling": 0},
    "progressive": {"quality": 85, "progressive": True},
    "restart markers": {"quality": 85, "restart_marker_rows": 1},
}


def _jpeg(image: Image.Image, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **settings)
    return buffer.getvalue()


def _pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_ordinary_jpegs_take_the_fast_way_and_give_the_pixels_of_pillow(settings: dict, mode: str) -> None:
    image = PHOTOGRAPHS["chelsea"].crop((0, 0, 173, 131)).convert(mode)
    data = _jpeg(image, **settings)
    fast = decode_plain_jpeg(data, None, 10**9)
    assert fast is not None and fast.mode == "RGB" and np.array_equal(np.asarray(fast), _pillow(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("least", [None, (80, 100)], ids=["whole", "scaled"])
def test_a_turned_photograph_stands_upright_however_it_is_decoded(orientation: int, least: tuple | None) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _jpeg(PHOTOGRAPHS["coffee"].resize((320, 240)), exif=exif, quality=90)
    whole = decode_image("source", data)
    found = decode_image("source", data, least_size=least)
    width, height = (320, 240) if orientation < 5 else (240, 320)
    assert whole.size == (width, height) and found.size == (width // (2 if least else 1), height // (2 if least else 1))
    assert np.abs(np.asarray(found.resize((24, 24)), float) - np.asarray(whole.resize((24, 24)), float)).mean() < 4


@pytest.mark.parametrize("resolution", [64, 84, 128, 200, 256])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("settings", [SETTINGS["4:2:0"], SETTINGS["4:4:4"]], ids=["4:2:0", "4:4:4"])
def test_scaled_decoding_is_within_two_255ths_of_the_whole_picture(name: str, resolution: int, settings: dict) -> None:
    data = _jpeg(PHOTOGRAPHS[name].resize((768, 512)), **settings)
    whole, scaled = (ImageTransform(resolution, scaled_decoding=choice) for choice in (False, True))
    first, second = (
        image_to_tensor(
            transform({"key": "a", "source": decode_image("source", data, least_size=transform.least_size)}, 0, 0)[
                "source"
            ]
        )
        for transform in (whole, scaled)
    )
    assert 0 < float((first - second).abs().mean()) * 127.5 <= 2


def test_images_are_never_reduced_below_what_is_needed() -> None:
    assert [reduction((512, 768), least) for least in (None, (256, 256), (257, 257), (128, 192), (129, 193))] == [
        *(1, 2, 1, 2, 2),
    ]
    assert [reduction((side, side), (1, 1)) for side in (127, 128, 256, 512, 5000)] == [1, 2, 2, 4, 8]
    sizes = {ImageTransform(256, 320, scaled_decoding=True).least_size, ImageTransform(256, 320).least_size}
    assert sizes == {(320, 320), None}
    assert ImageTransform(256, 320, shape=(192, 336), scaled_decoding=True).least_size == (240, 420)
    buffer = io.BytesIO()
    PHOTOGRAPHS["coffee"].save(buffer, "PNG")
    assert decode_image("source", buffer.getvalue(), least_size=(64, 64)).size == PHOTOGRAPHS["coffee"].size
    assert decode_image("m", _jpeg(PHOTOGRAPHS["coffee"]), True, (64, 64)).size == PHOTOGRAPHS["coffee"].size


def test_cmyk_is_decoded_by_pillow_and_scaled_too() -> None:
    data = _jpeg(PHOTOGRAPHS["astronaut"].convert("CMYK"), quality=90)
    assert decode_plain_jpeg(data, None, 10**9) is None
    whole, scaled = decode_image("source", data), decode_image("source", data, least_size=(128, 128))
    assert whole.size == (512, 512) and scaled.mode == "RGB" and scaled.size in ((256, 256), (512, 512))


def test_a_few_bytes_too_many_cost_nothing_and_lost_data_are_no_picture() -> None:
    data = _jpeg(PHOTOGRAPHS["chelsea"].crop((0, 0, 128, 128)), quality=90)
    padded = data[:-2] + bytes(3) + data[-2:]
    assert np.array_equal(np.asarray(decode_image("source", padded)), _pillow(data))
    with pytest.raises(ValueError, match="remature end"):
        decode_plain_jpeg(data[: len(data) // 2], None, 10**9)


def test_scaled_decoding_is_a_choice_of_the_configuration_for_training_alone(tmp_path: Path) -> None:
    picture = _jpeg(PHOTOGRAPHS["coffee"].resize((160, 160)), quality=90)
    folder = write_shards([{"key": str(n), "target": picture} for n in range(4)], tmp_path / "data", 4).directory
    settings = {"train": str(folder), "val": str(folder), "global_batch_size": 4, "eval_batch_size": 4}
    whole, scaled = (ShardData(resolution=64, scaled_decoding=choice, **settings) for choice in (False, True))
    first, second = (next(iter(data.train_dataloader()))["target"] for data in (whole, scaled))
    assert 0 < float((first - second).abs().mean()) * 127.5 <= 2
    evaluated = [next(iter(data.val_dataloader()))["target"] for data in (whole, scaled)]
    assert evaluated[0].equal(evaluated[1])
