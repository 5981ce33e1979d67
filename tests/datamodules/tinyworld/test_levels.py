"""Levels and kinds of instruction: what each shows, and what a sample says of them."""

import pytest

from datamodules.tinyworld.edits import TRAINED_TYPES, Edit
from datamodules.tinyworld.sample import draw_from, draw_pair, draw_sample, make_sample
from datamodules.tinyworld.scene import HELD_OUT_PAIRS, Scene
from datamodules.tinyworld.splits import SPLITS, edit_types
from datamodules.tinyworld.visual import odd_one_out
from datamodules.tinyworld.world import KINDS, LEVELS, World, level_of

PLAIN = World(level="plain")


def pairs(split, count, world=PLAIN):
    return [draw_pair(world, split, index)[2] for index in range(count)]


def test_plain_scenes_have_no_textures_and_one_colour_behind_them():
    for source, target, _ in pairs("train", 400):
        for scene in (source, target):
            assert scene.background.kind == "plain"
            assert all(thing.texture == "plain" for thing in scene.things)


def test_plain_scenes_have_one_or_two_objects_and_three_where_one_is_the_odd_one_out():
    counts = set()
    for source, target, edit in pairs("train", 400):
        most = max(len(source.things), len(target.things))
        counts.add(most)
        assert most <= 2 or (most == 3 and edit.type == "visual" and odd_one_out(source) is not None)
    assert counts == {1, 2, 3}


def test_plain_draws_every_type_but_photographs():
    assert {edit.type for *_, edit in pairs("train", 300)} == set(TRAINED_TYPES) - {"photographic"}


def test_the_held_out_splits_are_there_on_plain():
    for _, target, _ in pairs("unseen_pairs", 30):
        assert any((thing.colour, thing.shape) in HELD_OUT_PAIRS for thing in target.things)
    assert all(max(len(source.things), len(target.things)) == 4 for source, target, _ in pairs("unseen_counts", 30))
    assert all(edit.type == "outline" for *_, edit in pairs("outline_test", 30))
    for source, target, _ in pairs("train", 300):
        things = (*source.things, *target.things)
        assert all((thing.colour, thing.shape) not in HELD_OUT_PAIRS and not thing.outlined for thing in things)


@pytest.mark.parametrize("level", LEVELS)
def test_a_sample_says_its_level_in_key_and_metadata(level):
    sample = make_sample(0, "val", 3, level=level)
    assert sample["key"] == f"{level}-val-00000003" and level_of(sample["key"]) == level
    assert sample["metadata"]["level"] == level


def test_samples_of_before_there_were_levels_are_full():
    assert level_of("train-00000012") == "full"


def test_full_is_the_level_where_none_is_named():
    assert draw_sample(0, "val", 0)["key"].startswith("full-")


@pytest.mark.parametrize("level", LEVELS)
def test_kinds_are_named_and_none_is_inferable_unless_asked_for(level):
    for index in range(60):
        sample = draw_sample(0, "train", index, level=level)
        kind = "visual" if sample["edit_type"] == "visual" else "literal"
        assert sample["metadata"]["kind"] == kind


def test_all_kinds_may_be_asked_for():
    world = World(level="plain", kinds=KINDS)
    assert {draw_pair(world, "train", index)[1] for index in range(100)} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_may_be_asked_for_alone(kind):
    world = World(level="plain", kinds=(kind,))
    assert {draw_pair(world, "test", index)[1] for index in range(30)} == {kind}


def test_the_order_in_which_kinds_are_named_makes_no_difference():
    assert World(kinds=("visual", "literal", "visual")) == World(kinds=("literal", "visual"))


def test_only_visual_samples_have_an_expressive_text_of_the_blind():
    for index in range(60):
        metadata = draw_from(PLAIN, "val", index)["metadata"]
        assert ("expressive_blind" in metadata) == (metadata["kind"] == "visual")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"level": "hard"}, "level: expected one of plain, full, found 'hard'"),
        ({"kinds": ("literal", "odd")}, "kinds: expected some of literal, visual, inferable, found literal, odd"),
        ({"kinds": ()}, "found none"),
    ],
)
def test_unknown_levels_and_kinds_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        draw_sample(0, "train", 0, **settings)


def test_what_a_level_or_split_does_not_have_is_refused():
    with pytest.raises(ValueError, match="level plain has none"):
        draw_sample(0, "unseen_photographs", 0, level="plain")
    with pytest.raises(ValueError, match="split 'outline' has no instruction that is visual"):
        edit_types("outline", World(kinds=("visual",)))


@pytest.mark.parametrize("split", SPLITS)
def test_edits_are_read_back_from_metadata(split):
    level = "full" if split == "unseen_photographs" else "plain"
    metadata = draw_sample(0, split, 1, level=level)["metadata"]
    source, target, edit = draw_pair(World(level=level), split, 1)[2]
    assert Edit.from_dict(metadata["edit"]) == edit
    assert (Scene.from_dict(metadata["source_scene"]), Scene.from_dict(metadata["target_scene"])) == (source, target)
