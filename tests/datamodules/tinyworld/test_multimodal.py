"""The world of any modality: one edit in words, as a picture and as a sound, and a picture to edit among others."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from datamodules.placeholders import placeholders
from datamodules.schema import validate
from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.judge import TinyWorldJudge
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
from datamodules.tinyworld.render import render
from datamodules.tinyworld.sample import with_images
from datamodules.tinyworld.scene import OBJECT_COLOURS, Scene, Thing, cell_centre
from datamodules.tinyworld.words import AT_PLACE

COUNT = 200
OLD = {"world": "tinyworld"}  # whose oracle knows one place


@pytest.fixture(scope="module")
def samples() -> list:
    return [draw_multimodal_sample(0, "train", index) for index in range(COUNT)]


@pytest.mark.parametrize("split", SPLITS)
def test_samples_fit_the_schema_and_the_oracle(split: str):
    for index in range(20):
        sample = draw_multimodal_sample(0, split, index)
        validate(with_images(sample, png))
        verdict = TinyWorldJudge()(as_image(sample["target"]), sample["metadata"])
        assert verdict["success"] and verdict["preservation"]
        assert not TinyWorldJudge()(as_image(sample["source"]), sample["metadata"])["success"]


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


def verdicts(samples: list, picture: Callable[[dict, dict], Any]) -> list[dict[str, float]]:
    """Of one picture a sample, made of it and the next one."""
    judge = TinyWorldJudge()
    pairs = zip(samples, [*samples[1:], samples[0]], strict=True)
    return [judge(as_image(picture(one, other)), one["metadata"]) for one, other in pairs]


def with_the_added_at(sample: dict, place: str, colour: str = "") -> Any:
    """The picture of an edit whose object came to another place, or in another colour."""
    source, thing = Scene.from_dict(sample["metadata"]["source_scene"]), added(sample)
    x, y = cell_centre(place)
    moved = replace(thing, place=place, x=x + 1, y=y - 1, colour=colour or thing.colour)
    return render(source.with_things((*source.things, moved)))


def adds(samples: list) -> list:
    """Some that add an object."""
    return [sample for sample in samples if sample["edit_type"] == "add"][:10]


def added(sample: dict) -> Thing:
    thing = Edit.from_dict(sample["metadata"]["edit"]).after
    assert thing is not None
    return thing


def said_colours(sample: dict) -> set[str]:
    return {added(sample).colour, Scene.from_dict(sample["metadata"]["source_scene"]).background.first}


def free(sample: dict) -> list[str]:
    places = Scene.from_dict(sample["metadata"]["source_scene"]).free_places()
    return [place for place in places if place != added(sample).place]


def test_an_added_object_may_stand_at_any_free_place(samples: list):
    for sample in adds(samples):
        moved = as_image(with_the_added_at(sample, free(sample)[0]))
        verdict = TinyWorldJudge()(moved, sample["metadata"])
        assert verdict["success"] and verdict["preservation"]
        assert not judge(moved, sample["metadata"] | OLD).success


def test_an_added_object_of_another_colour_is_wrong_at_every_place(samples: list):
    for sample in adds(samples):
        colour = next(name for name in OBJECT_COLOURS if name not in said_colours(sample))
        painted = with_the_added_at(sample, free(sample)[0], colour)
        assert not TinyWorldJudge()(as_image(painted), sample["metadata"])["success"]


def test_the_oracles_own_errors_stay_small(samples: list):
    few = samples[: COUNT // 4]
    assert not any(verdict["success"] for verdict in verdicts(few, lambda one, other: one["source"]))
    strange = [verdict["success"] for verdict in verdicts(samples[: COUNT // 2], lambda one, other: other["target"])]
    assert sum(strange) <= 0.02 * len(strange)
    uniform = np.full((64, 64, 3), 128, np.uint8)
    assert not any(verdict["success"] for verdict in verdicts(few, lambda one, other: uniform))
