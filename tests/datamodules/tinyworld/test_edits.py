"""Edits change what they name and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.effects import apply_effect
from datamodules.tinyworld.render import render
from datamodules.tinyworld.sample import draw_sample
from datamodules.tinyworld.scene import ATMOSPHERES, PHOTOGRAPHIC, STYLES, Background, Scene, Thing
from datamodules.tinyworld.visual import first_by, odd_one_out

COUNT = 250


def thing(place="centre", shape="circle", colour="red", texture="plain", size="small"):
    x, y = {"left": (11, 32), "centre": (32, 32), "right": (53, 32)}[place]
    return Thing(shape, colour, texture, size, place, x, y)


@pytest.fixture(scope="module")
def drawn():
    samples = [draw_sample(0, "val", index) for index in range(COUNT)]
    return [
        (
            sample,
            Edit.from_dict(sample["metadata"]["edit"]),
            Scene.from_dict(sample["metadata"]["source_scene"]),
            Scene.from_dict(sample["metadata"]["target_scene"]),
        )
        for sample in samples
    ]


def test_objects_that_are_not_edited_stay_as_they_are(drawn):
    for _, edit, source, target in drawn:
        assert set(source.things) - {edit.before} == set(target.things) - {edit.after}


def test_only_global_edits_have_effects_and_only_background_edits_change_the_background(drawn):
    for _, edit, source, target in drawn:
        assert not source.effect
        assert bool(target.effect) == (edit.type in ("style", "atmosphere", "photographic"))
        assert (source.background != target.background) == (edit.type == "background")


def test_pixels_outside_the_masks_of_a_local_edit_are_equal(drawn):
    for sample, edit, _, _ in drawn:
        if edit.type in ("add", "remove", "recolour", "replace", "move", "resize", "visual"):
            changed = (sample["source"] != sample["target"]).any(axis=2)
            masks = sample["target_mask"] | sample["reference_mask"]
            padded = np.pad(masks, 1)
            near = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).any(axis=(2, 3))
            assert not (changed & ~near).any()


def test_every_edit_is_visible(drawn):
    for sample, *_ in drawn:
        gap = sample["source"].astype(int) - sample["target"]
        assert np.square(gap).max(axis=2).sum() > 64 * 64 * 2


def test_resize_move_and_recolour_keep_the_other_attributes(drawn):
    kept = {
        "resize": {"size": "small", "x": 0, "y": 0},
        "move": {"place": "", "x": 0, "y": 0},
        "recolour": {"colour": ""},
    }
    for _, edit, _, _ in drawn:
        if edit.type in kept:
            assert replace(edit.before, **kept[edit.type]) == replace(edit.after, **kept[edit.type])
            assert edit.before != edit.after


@pytest.mark.parametrize("effect", (*STYLES, *ATMOSPHERES, *PHOTOGRAPHIC))
def test_effects_keep_shape_and_type(effect):
    pixels = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    changed = apply_effect(pixels, effect)
    assert changed.shape == pixels.shape and changed.dtype == np.uint8 and (changed != pixels).any()


def test_negative_undoes_itself():
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert (apply_effect(apply_effect(pixels, "negative"), "negative") == pixels).all()


def test_pixelate_keeps_block_means_and_removes_all_detail():
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    blocks = apply_effect(pixels, "pixelate").reshape(16, 4, 16, 4, 3)
    assert np.ptp(blocks, axis=(1, 3)).max() == 0
    assert np.abs(blocks[:, 0, :, 0] - pixels.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))).max() <= 0.5


def test_the_odd_one_out_differs_in_one_attribute_only():
    white = Background("plain", first="white")
    others = (thing("left", colour="blue"), thing("right", colour="blue"))
    assert odd_one_out(Scene(white, (*others, thing("centre", colour="red")))) == thing("centre", colour="red")
    two_ways = (*others, thing("centre", colour="red", texture="striped"))
    assert odd_one_out(Scene(white, two_ways)) is None
    assert odd_one_out(Scene(white, (others[0], thing("centre", colour="red")))) is None


def test_a_referent_must_be_the_only_one():
    white = Background("plain", first="white")
    pair = (thing("left", size="large"), thing("right", size="large"))
    assert first_by(Scene(white, (*pair, thing())), lambda each: each.size == "small") is None
    assert first_by(Scene(white, (*pair, thing())), lambda each: each.size == "large") == thing()


def test_an_outline_leaves_the_silhouette_alone():
    white = Background("plain", first="white")
    plain, outlined = (render(Scene(white, (replace(thing(size="large"), outlined=on),))) for on in (False, True))
    assert ((plain != 250).any(axis=2) == (outlined != 250).any(axis=2)).all()
    assert (outlined[:, :, 0] < 20).sum() > 50
