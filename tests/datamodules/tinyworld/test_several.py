"""Two objects in one instruction, each of which the oracle asks for; and long instructions."""

import hashlib
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from datamodules.placeholders import without_placeholders
from datamodules.schema import validate
from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.judge import TinyWorldJudge
from datamodules.tinyworld.long_instructions import ASKED, CLOSINGS, MIDDLES, OPENINGS
from datamodules.tinyworld.multimodal_judge import judge_multimodal_edit
from datamodules.tinyworld.multimodal_samples import SPLITS, draw_long_sample, draw_said_sample
from datamodules.tinyworld.oracle import Verdict, judge, thing_at
from datamodules.tinyworld.oracle_errors import as_image, softened
from datamodules.tinyworld.png import png
from datamodules.tinyworld.render import render, silhouette
from datamodules.tinyworld.sample import Sample, draw_sample, with_images
from datamodules.tinyworld.scene import BACKGROUND_COLOURS, OBJECT_COLOURS, SHAPES, SIZES, Scene, Thing
from datamodules.tinyworld.several_samples import TYPES, draw_several_sample
from datamodules.tinyworld.words import AT_PLACE
from datamodules.tinyworld.world import LEVELS

ROOT = Path(__file__).resolve().parents[3]
COUNT, MANY = 12, 150
JUDGE = TinyWorldJudge()
MEANINGS = {*OBJECT_COLOURS, *BACKGROUND_COLOURS, *SHAPES, *SIZES, *AT_PLACE, "fog", "night", "light", "line", "bright"}


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [draw_several_sample(0, "train", index) for index in range(COUNT)]


def edits(sample: Sample) -> list[Edit]:
    return [Edit.from_dict(each) for each in sample["metadata"]["edits"]]


def source(sample: Sample) -> Scene:
    return Scene.from_dict(sample["metadata"]["source_scene"])


def verdicts(samples: list[Sample], picture: Callable[[Sample, Sample], Any]) -> list[dict[str, float]]:
    """Of one picture a sample, made of it and the next one."""
    pairs = zip(samples, [*samples[1:], samples[0]], strict=True)
    return [JUDGE(as_image(picture(one, other)), one["metadata"]) for one, other in pairs]


def after(scene: Scene, done: list[Edit]) -> Scene:
    """The scene with some edits alone."""
    gone, new = [edit.before for edit in done], [edit.after for edit in done if edit.after is not None]
    return scene.with_things((*(thing for thing in scene.things if thing not in gone), *new))


# Samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_samples_fit_the_schema_and_repeat(split: str) -> None:
    for index in range(5):
        sample = draw_several_sample(0, split, index)
        validate(with_images(sample, png))
        again = draw_several_sample(0, split, index)
        assert sample["metadata"] == again["metadata"] and (sample["target"] == again["target"]).all()
    with pytest.raises(ValueError, match="split 'outline': expected one of train, val, test"):
        draw_several_sample(0, "outline", 0)


def test_each_kind_of_two_edits_comes_and_one_object_stays(samples: list[Sample]) -> None:
    assert set(Counter(sample["edit_type"] for sample in samples)) == set(TYPES)
    for sample in samples:
        done = edits(sample)
        assert sorted(edit.type for edit in done) == sorted(TYPES[sample["edit_type"]])
        target = Scene.from_dict(sample["metadata"]["target_scene"])
        assert target == after(source(sample), done) and {*target.things} & {*source(sample).things}


def test_the_turns_ask_for_what_the_instruction_asks_for(samples: list[Sample]) -> None:
    for sample in samples:
        turns = sample["metadata"]["turn_instructions"]
        for edit, turn in zip(edits(sample), turns, strict=True):
            thing = edit.before or edit.after
            assert thing is not None
            assert f"{thing.colour} {thing.shape}" in turn and "the picture" in turn
            assert f"{thing.colour} {thing.shape}" in sample["instruction"]
        places = [text for text in (sample["instruction"], *turns) for place in AT_PLACE.values() if place in text]
        assert not places and not sample["attachments"]


def test_colour_and_shape_tell_the_objects_apart(samples: list[Sample]) -> None:
    for sample in samples:
        things = [thing for edit in edits(sample) for thing in (edit.before, edit.after) if thing is not None]
        untouched = [thing for thing in source(sample).things if thing not in things]
        named = [(thing.colour, thing.shape) for thing in (*things, *untouched)]
        assert all(named.count((thing.colour, thing.shape)) == 1 for thing in things)


def test_masks_hold_both_edits(samples: list[Sample]) -> None:
    for sample in samples[:10]:
        things = [thing for edit in edits(sample) for thing in (edit.before, edit.after) if thing is not None]
        both = silhouette(things[0]) | silhouette(things[1])
        assert (sample["target_mask"] == both).all() and (sample["reference_mask"] == both).all()


# The oracle ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [COUNT, pytest.param(MANY, marks=pytest.mark.slow)])
def test_both_edits_are_a_success_and_one_alone_another_sample_or_nothing_is_none(number: int) -> None:
    drawn = [draw_several_sample(0, "test", index) for index in range(number)]
    assert all(each["success"] and each["preservation"] for each in verdicts(drawn, lambda one, _: one["target"]))
    for place in (0, 1):
        half = verdicts(drawn, lambda one, _, n=place: render(after(source(one), edits(one)[n : n + 1])))
        assert not any(each["success"] for each in half)
    found = verdicts(drawn, lambda one, _: one["source"])
    assert not any(each["success"] for each in found) and all(each["preservation"] for each in found)
    strange = verdicts(drawn, lambda one, other: other["target"])
    assert sum(each["success"] for each in strange) <= 0.02 * number
    uniform = np.full((64, 64, 3), 128, np.uint8)
    assert not any(each["success"] for each in verdicts(drawn[:COUNT], lambda one, other: uniform))


def moved(sample: Sample, places: tuple[str, ...]) -> list[Edit]:
    left = iter(places)
    return [
        edit if edit.after is None else Edit("add", "add", None, thing_at(edit.after, next(left)))
        for edit in edits(sample)
    ]


def added(sample: Sample) -> list[Thing]:
    return [edit.after for edit in edits(sample) if edit.after is not None]


def test_added_objects_may_stand_at_any_free_places_and_the_rest_must_stay(samples: list[Sample]) -> None:
    for sample in [sample for sample in samples if added(sample)][:6]:
        gone = [edit.before for edit in edits(sample)]
        rest = source(sample).with_things(tuple(thing for thing in source(sample).things if thing not in gone))
        taken = {thing.place for thing in added(sample)}
        free = [place for place in rest.free_places() if place not in taken]
        elsewhere = after(source(sample), moved(sample, tuple(free[: len(added(sample))])))
        verdict = JUDGE(as_image(render(elsewhere)), sample["metadata"])
        assert verdict["success"] and verdict["preservation"]
        lost = elsewhere.with_things(tuple(thing for thing in elsewhere.things if thing not in rest.things))
        verdict = JUDGE(as_image(render(lost)), sample["metadata"])
        assert not verdict["preservation"]


@pytest.mark.slow
def test_looking_where_objects_are_read_finds_what_looking_everywhere_finds() -> None:
    drawn = (draw_several_sample(0, "val", index) for index in range(40))
    several = [sample for sample in drawn if len(added(sample)) == 2][:8]
    for one, other in zip(several, [*several[1:], several[0]], strict=True):
        for picture in (softened(one, other, None), other["target"], one["source"]):  # type: ignore[arg-type]
            every = []
            for places in permutations(source(one).free_places(), 2):
                done = moved(one, places)
                facts = {"edits": [edit.to_dict() for edit in done], "target_scene": after(source(one), done).to_dict()}
                every.append(judge(as_image(picture), one["metadata"] | facts | {"world": "tinyworld"}))
            found = JUDGE(as_image(picture), one["metadata"])
            assert found["success"] == any(verdict.success for verdict in every)


def test_several_edits_of_the_whole_picture_are_refused(samples: list[Sample]) -> None:
    wide = {"edits": [Edit("style", "sepia").to_dict(), Edit("style", "negative").to_dict()]}
    with pytest.raises(ValueError, match=r"metadata\.edits: expected edits of objects .* found 'style'"):
        JUDGE(as_image(samples[0]["target"]), samples[0]["metadata"] | wide)


def digest(number: int) -> str:
    """Of what the oracle says of so many scenes of each level, and of a quarter as many edits without places."""
    scenes = [draw_sample(0, "test", index, level=level) for level in LEVELS for index in range(number)]
    said = [draw_said_sample(0, "test", index) for index in range(number // 4)]
    found: list[Verdict] = []
    for judged, of in ((judge, scenes), (judge_multimodal_edit, said)):
        for one, other in zip(of, [*of[1:], of[0]], strict=True):
            pictures = (softened(one, other, None), other["target"])  # type: ignore[arg-type]
            found += [judged(as_image(picture), one["metadata"]) for picture in pictures]
    lines = [f"{each.success:d}{each.preservation:d}{each.details:d} {each.kept:.3f}" for each in found]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (20, "d0ad93ee1863f4b8762b2461b825040c072a9d698e8d0f5b67784d2945d88ec3"),
        pytest.param(80, "b754f6afbe0f24eda2c9af86cb71615b76eded063ba7e49599e89eaf73e007e5", marks=pytest.mark.slow),
    ],
)
def test_verdicts_on_single_edits_are_those_of_before_there_were_several(number: int, expected: str) -> None:
    """90 or 360 verdicts, half of them successes, as the oracle gave them that knew one edit alone."""
    assert digest(number) == expected


# Long instructions -----------------------------------------------------------------------------------------------


def test_the_long_form_holds_the_short_one_of_the_same_key() -> None:
    for index in range(30):
        short, long = draw_said_sample(0, "test", index), draw_long_sample(0, "test", index)
        assert short["key"] == long["key"] and (short["target"] == long["target"]).all()
        assert short["instruction"] == long["metadata"]["said"] and short["instruction"] in long["instruction"]
        assert long["instruction"].count(".") == 4 and len(long["instruction"]) > 3 * len(short["instruction"])


def test_no_other_sentence_says_what_could_be_an_edit() -> None:
    words = {word.strip(",") for text in (*OPENINGS, *MIDDLES, *ASKED, *CLOSINGS) for word in text.split()}
    assert not words & MEANINGS


def test_no_text_encoder_cuts_a_long_instruction() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets/tiny/stable-diffusion/tokenizer")
    texts = [without_placeholders(draw_long_sample(0, "test", index)["instruction"]) for index in range(100)]
    assert max(map(len, tokenizer(texts).input_ids)) <= tokenizer.model_max_length
