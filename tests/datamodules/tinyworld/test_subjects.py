"""Subjects: textures that no text names, pictures of them attached, and a judge of how near a picture comes to one."""

import re
from itertools import pairwise

import numpy as np
import pytest

from datamodules.placeholders import placeholders, without_placeholders
from datamodules.schema import validate
from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.oracle_errors import as_image, softened
from datamodules.tinyworld.png import png
from datamodules.tinyworld.render import silhouette
from datamodules.tinyworld.sample import with_images
from datamodules.tinyworld.scene import Scene, Thing
from datamodules.tinyworld.subject_judge import judge_drawing, judge_subjects, judge_texture, rivals
from datamodules.tinyworld.subject_samples import (
    BACKGROUND_SHARE,
    SPLITS,
    draw_subject_sample,
    draw_subject_sample_in_words,
)
from datamodules.tinyworld.subjects import ANGLES, COLOURS, PERIODS, Texture, draw_texture, render_with_subjects
from datamodules.tinyworld.world import World

SAMPLES = [draw_subject_sample(0, "unseen_textures", index) for index in range(40)]


def subjects(sample):
    return [(Thing(**each["thing"]), Texture(**each["texture"])) for each in sample["metadata"]["subjects"]]


def nearest(picture, sample):
    return [verdict.nearest for verdict in judge_subjects(as_image(picture), sample["metadata"])]


def test_every_pattern_period_and_angle_looks_different():
    turned = [(pattern, angle) for pattern, angles in ANGLES.items() for angle in angles]
    textures = [Texture(pattern, period, angle, "red", "white") for (pattern, angle) in turned for period in PERIODS]
    scene = Scene.from_dict(SAMPLES[0]["metadata"]["target_scene"])
    pictures = [render_with_subjects(scene, dict.fromkeys(scene.things, texture)) for texture in textures]
    assert len({picture.tobytes() for picture in pictures}) == len(textures)


def test_textures_of_training_and_of_the_split_of_unseen_ones_differ_in_pattern_or_colours():
    trained = {(t.pattern, t.first, t.second) for t in (draw_texture(Draws(0, "a", i), False) for i in range(300))}
    unseen = {(t.pattern, t.first, t.second) for t in (draw_texture(Draws(0, "b", i), True) for i in range(300))}
    assert len(unseen) > 50 and not trained & unseen


@pytest.mark.parametrize("split", SPLITS)
def test_each_split_has_its_side_of_the_textures(split):
    for index in range(30):
        for _, texture in subjects(draw_subject_sample(0, split, index)):
            assert texture.held_out == (split == "unseen_textures")


@pytest.mark.parametrize("split", SPLITS)
def test_samples_fit_the_schema(split):
    for index in range(10):
        validate(with_images(draw_subject_sample(0, split, index), png))


def test_each_attachment_belongs_to_the_word_for_its_shape_directly_behind_its_placeholder():
    for sample in SAMPLES:
        caption = sample["target_caption"]
        marks = placeholders(caption)
        assert [mark.number for mark in marks] == list(range(len(sample["attachments"])))
        for mark, entry, (thing, _) in zip(marks, sample["attachments"], subjects(sample), strict=True):
            assert (entry["kind"], entry["role"], tuple(entry["word"])) == ("image", "subject", mark.word)
            assert caption[slice(*entry["word"])] == thing.shape
        asked = placeholders(sample["instruction"])
        after = Thing(**sample["metadata"]["edit"]["after"])
        assert [sample["instruction"][slice(*mark.word)] for mark in asked] == [after.shape]
        assert subjects(sample)[asked[0].number][0] == after


def test_the_same_samples_in_words_differ_in_the_caption_alone():
    for index, sample in enumerate(SAMPLES):
        said = draw_subject_sample_in_words(0, "unseen_textures", index)
        caption = without_placeholders(sample["target_caption"])
        for thing, texture in subjects(sample):
            turned = f"{texture.period} pixels wide, turned {texture.angle} degrees,"
            words = f" in {texture.first} with {texture.second} {texture.pattern}, {turned}"
            assert words in said["target_caption"]
            caption = caption.replace(f"{thing.size} {thing.shape}", f"{thing.size} {thing.shape}{words}", 1)
        assert said["target_caption"] == caption
        assert [entry["data"].shape for entry in said["attachments"]] == [
            entry["data"].shape for entry in sample["attachments"]
        ]
        validate(with_images(said, png))
        assert set(said) == set(sample) and np.array_equal(said["target"], sample["target"])
        for name in ("key", "instruction", "response", "source_caption", "metadata"):
            assert said[name] == sample[name]


def test_no_text_names_a_texture_or_its_colours():
    for sample in SAMPLES:
        scene = Scene.from_dict(sample["metadata"]["target_scene"])
        ordinary = [thing for thing in scene.things if thing.colour]
        said = " ".join(without_placeholders(sample[field]) for field in ("response", "target_caption"))
        named = re.findall(rf"\b({'|'.join(COLOURS)})\b(?! background)", said)
        assert set(named) == {thing.colour for thing in ordinary}
        assert not re.search("|".join((*ANGLES, "striped", "dotted")), said)


@pytest.mark.parametrize("split", SPLITS)
def test_attachments_are_cuts_with_some_background_of_the_target_only_in_training(split):
    least, most = BACKGROUND_SHARE
    for index in range(20):
        sample = draw_subject_sample(0, split, index)
        for number, (thing, _) in enumerate(subjects(sample)):
            cut = sample["metadata"]["subjects"][number]["cut"]
            scene, side = Scene.from_dict(cut["scene"]), cut["side"]
            area = (slice(cut["top"], cut["top"] + side), slice(cut["left"], cut["left"] + side))
            shown = next(each for each in scene.things if each.shape == thing.shape and not each.colour)
            assert least <= 100 * (1 - silhouette(shown)[area].mean()) <= most
            data = sample["attachments"][number]["data"]
            assert data.shape == (side, side, 3)
            same = np.array_equal(data, sample["target"][area])
            assert same == (split == "train")
            assert (scene.to_dict() == sample["metadata"]["target_scene"]) == (split == "train")


def test_true_pictures_are_nearest_to_their_subjects():
    found = [verdict for sample in SAMPLES for verdict in nearest(sample["target"], sample)]
    assert all(found)


def test_softened_pictures_are_nearest_to_their_subjects():
    found = [verdict for sample in SAMPLES for verdict in nearest(softened(sample, sample, World()), sample)]
    assert np.mean(found) >= 0.95


def test_pictures_of_another_subject_and_of_none_are_not_nearest():
    wrong = []
    for sample, other in pairwise(SAMPLES):
        texture = subjects(other)[0][1]
        wrong += [judge_texture(as_image(sample["target"]), thing, texture).nearest for thing, _ in subjects(sample)]
    assert np.mean(wrong) <= 0.02
    uniform = np.full((64, 64, 3), 128, dtype=np.uint8)
    assert not any(verdict for sample in SAMPLES for verdict in nearest(uniform, sample))


def test_a_drawing_is_judged_by_its_pictures_and_by_its_text():
    true = [judge_drawing(as_image(sample["target"]), sample["metadata"]) for sample in SAMPLES]
    assert all((each.fidelity, each.alignment) == (1, 1) for each in true)
    drawn = []
    for sample, other in pairwise(SAMPLES):
        scene = Scene.from_dict(sample["metadata"]["target_scene"])
        textures = {thing: subjects(other)[0][1] for thing, _ in subjects(sample)}
        drawn.append(judge_drawing(as_image(render_with_subjects(scene, textures)), sample["metadata"]))
    assert 0.2 < np.mean([each.fidelity for each in drawn]) < 0.6 and max(each.fidelity for each in drawn) < 1
    assert np.mean([each.alignment for each in drawn]) > 0.95
    for sample in SAMPLES:
        scene = Scene.from_dict(sample["metadata"]["target_scene"])
        picture = render_with_subjects(scene.with_things(()), {})
        said = len(scene.things) + 1  # the background alone is right
        found = judge_drawing(as_image(picture), sample["metadata"])
        assert found.fidelity == 0 and found.alignment == pytest.approx(1 / said)


def test_a_rival_in_the_same_colours_is_told_from_the_subject():
    wrong = []
    for sample in SAMPLES[:25]:
        thing, texture = subjects(sample)[0]
        kin = [each for each in rivals(texture) if {each.first, each.second} == {texture.first, texture.second}][::9]
        wrong += [judge_texture(as_image(softened(sample, sample, World())), thing, each).nearest for each in kin]
    assert len(wrong) > 40 and np.mean(wrong) <= 0.02
