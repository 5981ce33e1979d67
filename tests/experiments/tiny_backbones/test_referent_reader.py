"""Readers of what visual instructions may mean: their labels and their loss."""

import math
from dataclasses import asdict

import torch

from datamodules.tinyworld.sample import make_sample
from datamodules.tinyworld.scene import PLACES, Background, Scene, Thing
from experiments.tiny_backbones.referent_reader import NAMES, NOBODY, ReferentReader, referent_labels, referent_losses
from mmig.language.token_loss import IGNORED

RED = Thing("circle", "red", "plain", "small", "left", 11, 32)
PINK = Thing("ring", "pink", "plain", "small", "top", 32, 11)
BLUE = Thing("square", "red", "plain", "small", "bottom right", 53, 53)


def labelled(*things: Thing) -> dict[str, int]:
    scene = asdict(Scene(Background("plain", first="white"), things))
    return dict(zip(NAMES, referent_labels([scene])[0].tolist(), strict=True))


def test_each_referent_is_where_its_object_stands():
    found = labelled(PINK, RED, BLUE)
    assert PLACES[found["odd one out"]] == "top"
    assert (PLACES[found["leftmost shape"]], PLACES[found["rightmost shape"]]) == ("left", "bottom right")
    assert (PLACES[found["highest shape"]], PLACES[found["lowest shape"]]) == ("top", "bottom right")
    assert found["largest shape"] == found["smallest shape"] == NOBODY  # all of a size


def test_one_object_is_never_meant():
    assert set(labelled(RED).values()) == {NOBODY}


def test_without_a_scene_nothing_is_asked_for():
    assert (referent_labels([None]) == IGNORED).all()
    assert referent_losses(torch.randn(1, len(NAMES), NOBODY + 1), referent_labels([None])).tolist() == [0]


def test_the_object_of_every_visual_edit_is_among_them():
    for index in range(20):
        known = make_sample(0, "train", index, level="plain", kinds=("visual",))["metadata"]
        (labels,) = referent_labels([known["source_scene"]])
        assert PLACES[labels[NAMES.index(known["edit"]["referent"])]] == known["edit"]["before"]["place"]


def test_a_uniform_guess_loses_the_logarithm_for_each_object_and_once_for_all_others():
    labels = torch.full((1, len(NAMES)), NOBODY)
    labels[0, :2] = 4
    found = referent_losses(torch.zeros(1, len(NAMES), NOBODY + 1), labels)
    torch.testing.assert_close(found, torch.tensor([3 * math.log(NOBODY + 1)]))


def test_all_states_are_read():
    states = torch.randn(2, 5, 16, requires_grad=True)
    logits = ReferentReader(16)(states)
    assert logits.shape == (2, len(NAMES), NOBODY + 1)
    logits.square().sum().backward()
    assert (states.grad.abs().amax(2) > 0).all()
