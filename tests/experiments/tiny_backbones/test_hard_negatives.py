"""Wrong captions: always wrong, by words of one group, whole words only."""

import pytest

from experiments.tiny_backbones.hard_negatives import wrong_caption

GROUPS = {"colours": ["red", "blue", "green"], "places": ["at the top", "at the top left"]}


def test_two_colours_change_places():
    text = "a red ball and a blue box and a red cup"
    assert wrong_caption(text, {"colours": ["red", "blue"]}, 0) == "a blue ball and a red box and a blue cup"


@pytest.mark.parametrize("seed", range(8))
def test_a_single_colour_becomes_another(seed: int):
    assert wrong_caption("a red ball", GROUPS, seed) in ("a blue ball", "a green ball")


def test_longer_phrases_go_first():
    text = "a ball at the top left, a box at the top"
    assert wrong_caption(text, {"places": GROUPS["places"]}, 0) == "a ball at the top, a box at the top left"


def test_parts_of_words_stay():
    assert wrong_caption("a covered hundred", GROUPS, 0) == ""


def test_seed_decides():
    text = "a red ball at the top"
    assert wrong_caption(text, GROUPS, 3) == wrong_caption(text, GROUPS, 3)
    assert len({wrong_caption(text, GROUPS, seed) for seed in range(20)}) == 3
