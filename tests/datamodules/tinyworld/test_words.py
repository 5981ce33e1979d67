"""Texts: short, correct, read back to the scene they describe, and naming every concept."""

import re

import pytest

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.edits import TRAINED_TYPES, Edit
from datamodules.tinyworld.grammar import judge_text, parse
from datamodules.tinyworld.instructions import instruct, refer
from datamodules.tinyworld.sample import draw_sample
from datamodules.tinyworld.scene import Background, Scene, Thing
from datamodules.tinyworld.splits import SPLITS
from datamodules.tinyworld.words import caption, response

COUNT = 40
TEXTS = ("instruction", "response", "source_caption", "target_caption")
RING = "a large orange striped ring on the right"
SCENE = Scene(
    Background("plain", first="white"),
    (
        Thing("circle", "red", "plain", "small", "left", 11, 32),
        Thing("ring", "orange", "striped", "large", "right", 53, 32),
    ),
)


@pytest.fixture(scope="module")
def samples():
    return [draw_sample(0, split, index) for split in SPLITS for index in range(COUNT)]


def test_captions_and_responses_are_read_back_without_loss(samples):
    for sample in samples:
        metadata = sample["metadata"]
        assert judge_text(sample["source_caption"], metadata["source_scene"]).correct
        assert judge_text(sample["target_caption"], metadata["target_scene"]).correct
        assert judge_text(sample["response"], metadata["target_scene"]).correct


def test_the_source_caption_does_not_describe_the_goal(samples):
    for sample in samples:
        assert not judge_text(sample["source_caption"], sample["metadata"]["target_scene"]).correct


def test_texts_have_at_most_sixty_words(samples):
    assert max(len(sample[name].split()) for sample in samples for name in TEXTS) <= 60


def test_the_vocabulary_is_small(samples):
    words = {word for sample in samples for name in TEXTS for word in re.findall(r"[\w-]+", sample[name])}
    assert len(words) < 400


def test_articles_fit_the_words_behind_them(samples):
    for sample in samples:
        for name in TEXTS:
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", sample[name]), sample[name]


def test_texts_are_clean(samples):
    for sample in samples:
        for name in TEXTS:
            assert re.fullmatch(r"[a-z][a-z ,-]*\.?", sample[name]) and "  " not in sample[name], sample[name]


def test_every_concept_is_in_the_response_with_pixels_of_its_own(samples):
    for sample in samples:
        covered = sum(concept["mask"].astype(int) for concept in sample["concepts"])
        assert (covered == 1).all()
        for concept in sample["concepts"]:
            assert concept["phrase"] in sample["response"]
            assert concept["mask"].any()


def test_phrases_of_object_and_background_are_said(samples):
    for sample in samples:
        assert sample["background_phrase"] in sample["response"]
        gone = sample["metadata"]["edit"]["before"] and not sample["metadata"]["edit"]["after"]
        assert gone or sample["object_phrase"] in sample["response"]


def test_a_visual_instruction_does_not_say_what_its_response_names(samples):
    for sample in (sample for sample in samples if sample["edit_type"] == "visual"):
        before = sample["metadata"]["edit"]["before"]
        said = re.search(rf"\b{before['place']}\b", sample["instruction"])
        assert not said or sample["metadata"]["edit"]["operation"] == "move"
        assert sample["object_phrase"] in sample["response"]
        assert re.search(r"odd one out|(larg|small|high|low)est shape|(left|right)most shape", sample["instruction"])


def test_references_fit_one_object_only():
    pair = (SCENE.things[0], Thing("circle", "red", "striped", "small", "right", 53, 32))
    scene = Scene(SCENE.background, pair)
    found = {refer(Draws(0, "x", index), pair[0], scene) for index in range(80)}
    assert found == {"shape on the left", "red circle on the left"}


def test_captions_have_several_wordings():
    found = {caption(Draws(0, "x", index), SCENE).text for index in range(40)}
    assert len(found) == 4 and all(judge_text(text, SCENE).correct for text in found)


@pytest.mark.parametrize("edit_type", [*TRAINED_TYPES, "outline"])
def test_one_edit_of_each_type_has_several_instructions_and_responses(samples, edit_type):
    pair = next(sample["metadata"] for sample in samples if sample["edit_type"] == edit_type)
    edit, source, target = (
        Edit.from_dict(pair["edit"]),
        Scene.from_dict(pair["source_scene"]),
        Scene.from_dict(pair["target_scene"]),
    )
    draws = [Draws(0, "wordings", index) for index in range(80)]
    instructions = {instruct(each, edit, source, target) for each in draws}
    answers = {response(each, target).text for each in draws}
    assert len(instructions) >= 3 and len({text.split()[0] for text in instructions}) >= 2
    assert len(answers) >= 3 and all(judge_text(text, target).correct for text in answers)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (f"a small red circle on the left and {RING}, on a white background", ""),
        (f"A {RING[2:]} and a small red circle on the left , on a WHITE background .", ""),
        (f"a small blue circle on the left and {RING}, on a white background", "colours"),
        (f"a small red square on the left and {RING}, on a white background", "objects"),
        (f"a small red circle on the right and {RING}, on a white background", "places"),
        ("a small red circle on the left, on a white background", "count"),
        (f"a large red circle on the left and {RING}, on a white background", "details"),
        (f"a small red circle on the left and {RING}, on a grey background", "background"),
        (f"a sepia picture of a small red circle on the left and {RING}, on a white background", "effect"),
        ("", "count"),
    ],
)
def test_texts_are_judged_by_meaning(text, wrong):
    verdict = judge_text(text, SCENE)
    assert verdict.correct == (wrong == "")
    assert not wrong or not getattr(verdict, wrong)


def test_what_is_gone_is_not_counted():
    parsed = parse("a small red circle on the left, on a white background, without the large blue ring.")
    assert [thing.shape for thing in parsed.objects] == ["circle"]
    assert [(thing.colour, thing.shape) for thing in parsed.absent] == [("blue", "ring")]


def test_photographs_are_read_by_subject_and_effect():
    parsed = parse("the result is an underexposed photograph of a cup of coffee.")
    assert (parsed.background, parsed.effect, parsed.objects) == ("cup of coffee", "exposure down", ())
