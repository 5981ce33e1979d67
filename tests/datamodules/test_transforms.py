"""Augmentation: one draw for all images and masks of a sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.faults import BadSample
from datamodules.schema import Sample, image_to_tensor
from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from datamodules.transforms import ImageTransform
from tests.datamodules.make_samples import make_image


def _ramp(width: int, height: int) -> Image.Image:
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([across, down, across], -1).astype(np.uint8))


def _sample(**fields: object) -> Sample:
    return {"key": "a", "source": _ramp(40, 30), "target": _ramp(40, 30), **fields}  # type: ignore[typeddict-item]


def _pixels(image: object) -> np.ndarray:
    return np.asarray(image, np.int64)


def test_all_images_and_masks_get_the_same_draw() -> None:
    mask = _ramp(40, 30).getchannel(0)
    sample = _sample(target_mask=mask, concepts=[{"phrase": "p", "mask": mask}])
    for position in range(20):
        done = ImageTransform(16, 24, crop="random", flip=True)(sample, 0, position)
        assert done["source"].size == (16, 16) and np.array_equal(done["source"], done["target"])
        assert np.array_equal(done["target_mask"], done["concepts"][0]["mask"])
        assert abs(_pixels(done["target_mask"]) - _pixels(done["source"])[..., 0]).max() < 6


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    transform = ImageTransform(16, 24, crop="random", flip=True)
    draws = {
        (seed, place): _pixels(transform(_sample(), seed, place)["source"]).tobytes()
        for seed in (0, 1)
        for place in range(9)
    }
    again = {
        (seed, place): _pixels(transform(_sample(), seed, place)["source"]).tobytes() for seed, place in reversed(draws)
    }
    assert draws == again and len(set(draws.values())) > 12


def _flipped(sample: Sample) -> list[bool]:
    transform = ImageTransform(30, flip=True)
    images = [_pixels(transform(sample, 0, position)["source"])[..., 0] for position in range(40)]
    return [bool(image[0, 0] > image[0, -1]) for image in images]


def test_about_half_the_samples_are_flipped() -> None:
    assert 10 < sum(_flipped(_sample(instruction="make it brighter"))) < 30


@pytest.mark.parametrize(
    "fields",
    [
        {"instruction": "Remove the LEFT circle"},
        {"response": "a cat on the right-hand side"},
        {"concepts": [{"phrase": "the leftmost tree"}]},
        {"instruction": "turn it clockwise"},
        {"instruction": "mach das linke Auto rot"},
        {"target_caption": "la voiture de gauche est rouge"},
        {"instruction": "左の車を赤くして"},
        {"instruction": 'write "HELLO" on the sign'},
    ],
)
def test_nothing_is_flipped_when_a_text_names_a_side(fields: dict) -> None:
    assert not any(_flipped(_sample(**fields)))


def test_words_of_the_configuration_are_obeyed_too(tmp_path: Path) -> None:
    write_shards([{**_sample(instruction="vire a babord"), "key": str(n)} for n in range(16)], tmp_path / "data")
    settings = {"train": str(tmp_path / "data"), "resolution": 30, "global_batch_size": 16, "flip": True}
    ways = []
    for words in (None, ["babor*"]):
        batch = next(iter(ShardData(never_flip=words, **settings).train_dataloader()))
        ways.append(int((batch["source"][:, 0, 0, 0] > batch["source"][:, 0, 0, -1]).sum()))
    assert 3 < ways[0] < 13 and ways[1] == 0


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = make_image(0, 24)
    done = ImageTransform(24)({"key": "a", "source": image}, 0, 5)
    assert np.array_equal(done["source"], image)


def test_the_centre_crop_is_in_the_centre_and_keeps_the_aspect() -> None:
    done = ImageTransform(30)(_sample(), 0, 0)["source"]
    assert np.array_equal(done, _ramp(40, 30).crop((5, 0, 35, 30)))


def test_images_of_one_sample_may_differ_in_size_but_not_in_shape() -> None:
    done = ImageTransform(16)({"key": "a", "source": _ramp(40, 30), "target": _ramp(80, 60)}, 0, 0)
    assert (image_to_tensor(done["source"]) - image_to_tensor(done["target"])).abs().mean() < 0.05
    with pytest.raises(BadSample, match="40x30 and 30x40 pixels"):
        ImageTransform(16)({"key": "a", "source": _ramp(40, 30), "target": _ramp(30, 40)}, 0, 0)


def test_a_resolution_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="1 <= resolution <= max_short_side, found resolution 16, max_short_side 8"):
        ImageTransform(16, 8)
