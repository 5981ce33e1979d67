"""The world of any modality: one edit in words, as a picture and as a sound, and a picture to edit among others."""

from collections import Counter

import pytest

from datamodules.placeholders import placeholders
from datamodules.schema import validate
from datamodules.tinyworld.multimodal_samples import (
    SPLITS,
    TYPES,
    draw_heard_sample,
    draw_multimodal_sample,
    draw_said_sample,
    draw_shown_sample,
)
from datamodules.tinyworld.oracle import judge
from datamodules.tinyworld.oracle_errors import as_image
from datamodules.tinyworld.png import png
from datamodules.tinyworld.sample import with_images
from datamodules.tinyworld.words import AT_PLACE

COUNT = 200


@pytest.fixture(scope="module")
def samples() -> list:
    return [draw_multimodal_sample(0, "train", index) for index in range(COUNT)]


@pytest.mark.parametrize("split", SPLITS)
def test_samples_fit_the_schema_and_the_oracle(split: str):
    for index in range(20):
        sample = draw_multimodal_sample(0, split, index)
        validate(with_images(sample, png))
        assert judge(as_image(sample["target"]), sample["metadata"]).success
        assert not judge(as_image(sample["source"]), sample["metadata"]).success


def test_four_of_five_instructions_have_an_attachment_in_place_of_words(samples: list):
    found = Counter(sample["metadata"]["modality"] for sample in samples)
    assert 0.12 * COUNT < found["text"] < 0.28 * COUNT  # 20 % and three standard deviations of 200
    assert found["image"] > found["audio"] > 0.2 * COUNT  # backgrounds have no sound
    assert {sample["edit_type"] for sample in samples} == set(TYPES)


def test_the_picture_to_edit_is_the_source_wherever_it_is_attached(samples: list):
    first = Counter()
    for sample in samples:
        base = [number for number, one in enumerate(sample["attachments"]) if one["role"] == "base"]
        for number in base:
            assert (sample["attachments"][number]["data"] == sample["source"]).all()
            assert f"<image:{number}>" in sample["instruction"]
        first.update(base)
        assert bool(base) != ("the picture" in sample["instruction"])
    assert first[0] > 50 and first[1] > 20 and first.total() < 0.9 * COUNT


def test_no_instruction_says_a_place(samples: list):
    assert not [sample for sample in samples if any(place in sample["instruction"] for place in AT_PLACE.values())]


def test_the_same_edit_is_said_shown_and_heard():
    for index in range(30):
        said, shown, heard = (
            draw(0, "test", index) for draw in (draw_said_sample, draw_shown_sample, draw_heard_sample)
        )
        assert (said["target"] == shown["target"]).all() and (said["target"] == heard["target"]).all()
        kinds = [[mark.kind for mark in placeholders(one["instruction"])] for one in (said, shown, heard)]
        base = kinds[0].count("image")
        assert kinds[0].count("audio") == kinds[1].count("audio") == 0
        assert kinds[1].count("image") == base + 1 and sorted(kinds[2]) == ["audio", *["image"] * base]
        assert said["metadata"]["item"] in said["instruction"]
