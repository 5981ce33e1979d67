"""Inferable instructions: only language says what is meant, and no training instruction says it as the test does."""

import re

import pytest

from datamodules.tinyworld.edit_grammar import leads_to
from datamodules.tinyworld.grammar import judge_text
from datamodules.tinyworld.inferable import INFERABLE_TYPES, PHRASES, TRAINED_SPLITS, facts, phrases
from datamodules.tinyworld.sample import draw_from
from datamodules.tinyworld.scene import BACKGROUND_COLOURS, OBJECT_COLOURS, PLACES, SHAPES, SIZES
from datamodules.tinyworld.splits import SPLITS
from datamodules.tinyworld.world import LEVELS, World

VALUES = {"colour": (*OBJECT_COLOURS, *BACKGROUND_COLOURS), "shape": SHAPES, "size": SIZES, "place": PLACES}
LITERAL = {word for values in VALUES.values() for value in values for word in value.split()}


def drawn(split, level="plain", count=150):
    world = World(level=level, kinds=("inferable",))
    return [draw_from(world, split, index) for index in range(count)]


def said(sample):
    return [phrase for phrase in PHRASES if re.search(rf"\b{phrase.text}\b", sample["instruction"])]


@pytest.mark.parametrize("attribute", VALUES)
def test_every_value_has_phrases_for_training_and_others_for_test(attribute):
    for value in VALUES[attribute]:
        seen, unseen = (phrases(attribute, value, held_out) for held_out in (False, True))
        assert len(seen) + len(unseen) >= 3 and seen and unseen and not set(seen) & set(unseen)


@pytest.mark.parametrize("attribute", ["colour", "shape"])
def test_colours_and_shapes_have_three_phrases_for_training(attribute):
    assert all(len(phrases(attribute, value, held_out=False)) >= 3 for value in VALUES[attribute])


def test_no_phrase_stands_for_two_values_or_within_another():
    texts = [phrase.text for phrase in PHRASES]
    assert len(set(texts)) == len(texts)
    inside = [(a, b) for a in texts for b in texts if a != b and re.search(rf"\b{a}\b", b)]
    assert inside == []


def test_no_phrase_names_an_attribute_by_its_word():
    assert [phrase.text for phrase in PHRASES if LITERAL & set(phrase.text.split())] == []


def test_facts_say_what_phrases_mean_without_them():
    for phrase in PHRASES:
        assert phrase.value in phrase.fact or phrase.value.replace("centre", "middle") in phrase.fact
        assert not any(other.text in phrase.fact for other in PHRASES)
    assert len(facts()) == len(PHRASES)


def test_no_phrase_of_the_test_is_in_training():
    train = {phrase.text for split in TRAINED_SPLITS for sample in drawn(split) for phrase in said(sample)}
    test = {phrase.text for split in ("test", "unseen_pairs") for sample in drawn(split) for phrase in said(sample)}
    held_out = {phrase.text for phrase in PHRASES if phrase.held_out}
    assert train and test and test <= held_out and not train & held_out


@pytest.mark.parametrize("split", [split for split in SPLITS if split != "unseen_photographs"])
@pytest.mark.parametrize("level", LEVELS)
def test_instructions_mean_the_edit_and_all_other_texts_are_literal(split, level):
    for sample in drawn(split, level, 40):
        metadata, edit = sample["metadata"], sample["metadata"]["edit"]
        backgrounds = [metadata["target_scene"]["background"][end] for end in ("first", "second")]
        things = [value for thing in (edit["before"], edit["after"]) if thing for value in thing.values()]
        found = said(sample)
        assert 1 <= len(found) <= 2 and all(phrase.value in (*backgrounds, *things) for phrase in found)
        assert leads_to(sample["expressive"], metadata["source_scene"], metadata["target_scene"])
        assert judge_text(sample["response"], metadata["target_scene"]).correct
        assert not any(said(sample | {"instruction": sample[text]}) for text in ("response", "expressive"))


def test_every_type_that_names_anything_has_inferable_instructions():
    assert {sample["edit_type"] for sample in drawn("train")} == set(INFERABLE_TYPES) - {"outline"}
    assert {sample["edit_type"] for sample in drawn("outline", count=3)} == {"outline"}


def test_inferable_instructions_are_clean():
    for sample in drawn("train") + drawn("test"):
        text = sample["instruction"]
        assert re.fullmatch(r"[a-z][a-z -]*", text) and "  " not in text and len(text.split()) <= 40
        assert not re.search(r"\ba [aeio]|\ban [^aeio]", text), text
