"""Rules 2 to 6 of the data step, against counting by pixels; U9 as a whole is in test_subjects.py."""

from typing import Any

import numpy as np
import pytest

from mmig.methods.umm_diffusion.crop_rules import LOST, CropRules, FoundBox, choose_subjects, clipped, inside_square
from mmig.methods.umm_diffusion.vocabulary import Vocabulary

SIZE = (640, 512)
RULES = CropRules(threshold=0.7)
DOG = FoundBox("dog", 0.9, (100.0, 100.0, 400.0, 400.0))


def chosen(
    found: list[FoundBox],
    caption: str = "a dog",
    rules: CropRules = RULES,
    size: tuple[int, int] = SIZE,
    allowed: frozenset[str] | None = None,
) -> Any:
    return choose_subjects(found, size, caption, rules, Vocabulary(), allowed)


def covered(box: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """Which pixels of a picture a box of whole numbers covers, bool [H,W]."""
    mask = np.zeros((size[1], size[0]), bool)
    left, top, right, bottom = (max(int(place), 0) for place in box)
    mask[top:bottom, left:right] = True
    return mask


def test_a_box_is_what_its_pixels_are() -> None:
    draws, rules = np.random.default_rng(0), CropRules(0.7, min_area=0, min_inside=0)
    for _ in range(200):
        width, height = (2 * int(half) for half in draws.integers(150, 350, 2))
        (left, right), (top, bottom) = (sorted(draws.integers(-50, side + 50, 2)) for side in (width, height))
        box = (float(left), float(top), float(right), float(bottom))
        mask, square, side = covered(box, (width, height)), np.zeros((height, width), bool), min(width, height)
        square[(height - side) // 2 :, (width - side) // 2 :][:side, :side] = True
        result = chosen([FoundBox("dog", 0.9, box)], rules=rules, size=(width, height))
        if not mask.any():
            assert result.last == "outside"
            continue
        (found,) = result.subjects
        rows, columns = np.nonzero(mask)
        assert found.crop == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert found.area == pytest.approx(mask.mean())
        assert found.inside == pytest.approx((mask & square).sum() / mask.sum())


def test_a_crop_has_every_pixel_that_its_box_touches() -> None:
    (found,) = chosen([FoundBox("dog", 0.9, (-3.2, 100.7, 400.1, 600.0))], size=(640, 512)).subjects
    assert found.box == (0, 100.7, 400.1, 512) and found.crop == (0, 100, 401, 512)


@pytest.mark.parametrize(
    ("found", "caption", "rule"),
    [
        ([], "a dog", "score"),
        ([DOG._replace(score=0.7)], "a dog", "score"),
        ([DOG._replace(box=(640.0, 0.0, 900.0, 500.0))], "a dog", "outside"),
        ([DOG._replace(box=(5.0, 0.0, 5.0, 500.0))], "a dog", "outside"),
        ([DOG, DOG._replace(box=(420.0, 0.0, 630.0, 500.0))], "a dog", "repeated"),
        ([DOG, DOG._replace(box=(0.0, 0.0, 20.0, 20.0))], "a dog", "repeated"),  # counted before small ones go
        ([DOG._replace(box=(0.0, 0.0, 180.0, 182.0))], "a dog", "area"),  # 0.09998
        ([DOG], "a puppy", "word_absent"),
        ([DOG], "dogs", "word_absent"),
        ([DOG], "a dog and a Dog", "word_repeated"),
        ([DOG._replace(box=(0.0, 0.0, 200.0, 512.0))], "a dog", "cut"),
        ([DOG, FoundBox("cat", 0.99, (0.0, 0.0, 30.0, 30.0))], "a cat", "word_absent"),  # the rule of the last box
    ],
)
def test_a_picture_is_dropped_by_the_rule_that_takes_its_last_box(
    found: list[FoundBox], caption: str, rule: str
) -> None:
    result = chosen(found, caption)
    assert not result.subjects and result.last == rule and rule in LOST
    assert result.lost.total() == len(found)


@pytest.mark.parametrize(
    ("box", "rules"),
    [
        ((0.0, 0.0, 128.0, 256.0), CropRules(0.7, min_inside=0)),  # 0.1 to the dot
        ((0.0, 0.0, 200.0, 512.0), CropRules(0.7, min_inside=0)),
        ((0.0, 0.0, 320.0, 512.0), CropRules(0.7, min_inside=0.8)),  # 256 of 320 columns are inside
    ],
)
def test_what_is_exactly_enough_is_enough(box: tuple[float, ...], rules: CropRules) -> None:
    assert len(chosen([DOG._replace(box=box)], rules=rules).subjects) == 1


def test_two_boxes_on_one_object_are_one() -> None:
    near = DOG._replace(score=0.95, box=(110.0, 100.0, 400.0, 410.0))
    result = chosen([DOG, near])
    assert [each.score for each in result.subjects] == [0.95] and result.lost == {"overlap": 1}
    assert chosen([DOG, near], rules=CropRules(0.7, nms_iou=1.0)).last == "repeated"
    other = chosen([DOG, near._replace(label="cat")], "a dog and a cat").subjects
    assert [each.label for each in other] == ["dog", "cat"]


def test_labels_of_one_meaning_are_one_label() -> None:
    boxes = [DOG._replace(label="couch"), FoundBox("sofa", 0.8, (420.0, 0.0, 630.0, 512.0))]
    arguments = (SIZE, "a red sofa", RULES)
    assert choose_subjects(boxes, *arguments, Vocabulary([("couch", "sofa")])).last == "repeated"
    (alone,) = choose_subjects(boxes[:1], *arguments, Vocabulary([("couch", "sofa")])).subjects
    assert (alone.label, alone.word) == ("couch", (6, 10))
    assert choose_subjects(boxes[:1], *arguments, Vocabulary()).last == "word_absent"


def test_subjects_come_in_the_order_of_their_words_and_the_best_of_too_many() -> None:
    names = ["cat", "dog", "horse", "sheep"]
    boxes = [FoundBox(name, 0.75 + 0.05 * place, (64.0, 0.0, 500.0, 500.0)) for place, name in enumerate(names)]
    result = chosen(boxes, "a sheep, a cat, a dog and a horse", CropRules(0.7, max_subjects=2))
    assert [each.label for each in result.subjects] == ["sheep", "horse"] and result.lost == {"surplus": 2}
    assert chosen(boxes, "a sheep and a cat", allowed=frozenset({"cat"})).lost == {"label": 3}


def test_numbers_out_of_range_are_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"rules\.min_area: expected a finite number in \[0, 1\], found 10"):
        CropRules(min_area=10)
    with pytest.raises(ValueError, match=r"rules\.min_side: expected a whole number of at least 1, found 0"):
        CropRules(min_side=0)


def test_the_square_is_in_the_middle() -> None:
    assert inside_square((0, 0, 640, 512), (640, 512)) == 512 / 640
    assert inside_square((0, 0, 64, 512), (640, 512)) == 0
    assert inside_square((0, 0, 512, 640), (512, 640)) == 512 / 640
    assert clipped((-5, -5, 700, 600), SIZE) == (0, 0, 640, 512)
