"""Samples: the same everywhere, complete, and each split holds what its name says."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from datamodules.schema import validate
from datamodules.tinyworld.edits import TRAINED_TYPES
from datamodules.tinyworld.photographs import PHOTOGRAPHS
from datamodules.tinyworld.sample import draw_sample, make_sample
from datamodules.tinyworld.scene import HELD_OUT_PAIRS, Scene
from datamodules.tinyworld.splits import SPLITS, edit_types
from datamodules.tinyworld.world import LEVELS, World


def scenes(split, count, photographs=True):
    for index in range(count):
        metadata = draw_sample(0, split, index, photographs)["metadata"]
        yield Scene.from_dict(metadata["source_scene"]), Scene.from_dict(metadata["target_scene"])


def digest(samples, leave_out=()):
    sha = hashlib.sha256()
    for sample in samples:
        texts = {name: value for name, value in sample.items() if isinstance(value, str) or name == "metadata"}
        texts = {name: value for name, value in texts.items() if name not in leave_out}
        sha.update(json.dumps(texts, sort_keys=True).encode())
        for name in ("source", "target", "target_mask", "reference_mask"):
            sha.update(np.ascontiguousarray(sample[name]).tobytes())
        for concept in sample["concepts"]:
            sha.update(concept["phrase"].encode() + np.ascontiguousarray(concept["mask"]).tobytes())
    return sha.hexdigest()


def test_samples_are_the_ones_that_the_tiny_backbones_were_trained_on():
    """Change this only together with WORLD_VERSION and new tiny backbones."""
    assert {level: digest(draw_sample(0, "train", i, level=level) for i in range(60)) for level in LEVELS} == GOLDEN


def test_a_sample_depends_on_nothing_drawn_before_it():
    first = digest([draw_sample(3, "val", 7)])
    for index in range(5):
        draw_sample(3, "val", index)
    assert digest([draw_sample(3, "val", 7)]) == first


@pytest.mark.parametrize("other", [(1, "train", 0), (0, "val", 0), (0, "train", 1)])
def test_seed_split_and_index_each_change_the_sample(other):
    named = ("key", "metadata")  # which say seed, split and index themselves
    first, second = draw_sample(0, "train", 0), draw_sample(*other)
    assert digest([first], named) != digest([second], named)
    assert not np.array_equal(first["source"], second["source"])
    assert digest([first | {name: second[name] for name in named}], named) == digest([first], named)


@pytest.mark.parametrize("split", SPLITS)
def test_samples_fit_the_schema(split):
    sample = make_sample(0, split, 0)
    validate(sample)
    assert sample["source"].size == sample["target"].size == (64, 64)
    assert isinstance(sample["target"], Image.Image) and sample["target"].mode == "RGB"
    assert sample["target_mask"].mode == "L" and set(np.unique(sample["target_mask"])) <= {0, 255}


def test_training_draws_every_type_but_outline():
    assert {draw_sample(0, "train", index)["edit_type"] for index in range(150)} == set(TRAINED_TYPES)
    assert "outline" not in edit_types("train", World())


def test_no_photographs_means_none():
    for source, target in scenes("train", 120, photographs=False):
        assert not source.background.photograph and not target.background.photograph


def test_training_scenes_have_no_held_out_pair_count_photograph_or_outline():
    for pair in scenes("train", 200):
        for scene in pair:
            assert len(scene.things) <= 3
            assert all((thing.colour, thing.shape) not in HELD_OUT_PAIRS for thing in scene.things)
            assert not any(thing.outlined for thing in scene.things)
            assert not scene.background.photograph or not PHOTOGRAPHS[scene.background.photograph].held_out


def test_unseen_pairs_show_a_held_out_pair_in_every_goal():
    for _, target in scenes("unseen_pairs", 40):
        assert any((thing.colour, thing.shape) in HELD_OUT_PAIRS for thing in target.things)


def test_unseen_counts_have_four_objects_before_or_after():
    assert all(max(len(source.things), len(target.things)) == 4 for source, target in scenes("unseen_counts", 40))


def test_unseen_photographs_show_a_held_out_photograph_in_every_goal():
    for _, target in scenes("unseen_photographs", 40):
        assert PHOTOGRAPHS[target.background.photograph].held_out


def test_outline_outlines_one_object():
    for source, target in scenes("outline", 40):
        assert sum(thing.outlined for thing in target.things) == 1
        assert not any(thing.outlined for thing in source.things)


def test_removals_are_ordinary_edits_that_take_an_object_away():
    assert edit_types("removals", World()) == ("remove",)
    assert all(len(target.things) < len(source.things) for source, target in scenes("removals", 20))


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="split 'training': expected one of train, val"):
        make_sample(0, "training", 0)


def test_unseen_photographs_need_photographs():
    with pytest.raises(ValueError, match="unseen_photographs"):
        make_sample(0, "unseen_photographs", 0, photographs=False)


GOLDEN = {
    "plain": "4d0e2cf5910583ad8e790bdc2d4ce260af58926eb258ddee2eb023da3a756274",
    "full": "60493e5e5e8cdbf28fa10dfc495e3911259a04292436854dcd5a5996483de7ab",
}
