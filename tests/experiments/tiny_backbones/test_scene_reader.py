"""Labels of scenes by place, and the balanced loss of what is read."""

import torch
import torch.nn.functional as F

from datamodules.tinyworld.scene import OBJECT_COLOURS, PLACES, SHAPES, SIZES, Background, Scene, Thing, fields_of
from experiments.tiny_backbones.scene_reader import EMPTY, SceneReader, edit_labels, reading_losses, scene_labels
from mmig.language.token_loss import IGNORED

RING = Thing("ring", "pink", "plain", "small", "top right", 53, 11)


def scene(effect: str = "") -> dict:
    return Scene(Background("plain", first="white"), (RING,), effect).to_dict()


def test_an_object_is_labelled_at_its_place_and_all_others_are_empty():
    labels = scene_labels([scene()])[0]
    place = PLACES.index("top right")
    values = (SHAPES, tuple(OBJECT_COLOURS), SIZES)
    told = [names[label - 1] for names, label in zip(values, labels[place].tolist(), strict=True)]
    assert told == ["ring", "pink", "small"]
    labels[place] = EMPTY
    assert (labels == EMPTY).all()


def test_a_colour_that_no_picture_shows_is_not_asked_for():
    place = PLACES.index("top right")
    assert scene_labels([scene("line art")])[0, place].tolist() == [1 + SHAPES.index("ring"), IGNORED, 1]


def test_without_a_scene_nothing_is_asked_for():
    assert (scene_labels([None]) == IGNORED).all()
    logits = SceneReader(8, width=16, heads=2)(torch.randn(1, 5, 8))
    assert reading_losses(logits, scene_labels([None])).tolist() == [0.0]


def test_objects_and_empty_places_weigh_alike():
    logits = SceneReader(8, width=16, heads=2)(torch.randn(1, 5, 8))
    labels = scene_labels([scene()])
    each = torch.stack([F.cross_entropy(part[0], labels[0, :, n], reduction="none") for n, part in enumerate(logits)])
    place = PLACES.index("top right")
    others = [number for number in range(len(PLACES)) if number != place]
    expected = each[:, place].mean() + each[:, others].mean()
    torch.testing.assert_close(reading_losses(logits, labels)[0], expected)


def test_an_edit_is_labelled_by_its_object_before_and_after_it():
    ring = fields_of(RING)
    before, after = edit_labels([{"before": ring, "after": ring | {"place": "left"}}, {"before": None, "after": ring}])
    moved = [(labels[0, :, 0] > EMPTY).nonzero().flatten().tolist() for labels in (before, after)]
    assert moved == [[PLACES.index("top right")], [PLACES.index("left")]]
    assert (before[1] == EMPTY).all()
    assert torch.equal(after[1], scene_labels([scene()])[0])
