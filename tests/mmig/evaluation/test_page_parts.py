"""Causes, choice of samples, sentences and places of figures, against cases worked out by hand."""

import base64
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmig.evaluation.bootstrap import Interval
from mmig.evaluation.page.causes import causes_by_type, count_causes
from mmig.evaluation.page.chosen import gains, ranked, scores, some_of_each, split_ranked
from mmig.evaluation.page.figures import axis, letter_of
from mmig.evaluation.page.found import by_chance, describe_difference, limits, primary_metric
from mmig.evaluation.page.images import data_uri
from mmig.evaluation.rows import SampleRow


def edit(key: str, success: float | None, preservation: float | None, text: float | None = None) -> SampleRow:
    values = {"success": success, "preservation": preservation}
    return SampleRow(key, 0, "add", values if text is None else values | {"response_accuracy": text})


def test_failures_are_counted_by_their_cause() -> None:
    made = [
        edit("done", 1, 1),
        edit("done in spite of a wrong text", 1, 1, 0),
        edit("text wrong", 0, 1, 0),
        edit("text wrong, though more went wrong", 1, 0, 0),
        edit("not edited", 0, 1, 1),
        edit("not edited, text unknown", 0, 1),
        edit("edited elsewhere", 0, 0, 1),
        edit("rest spoilt", 1, 0),
        edit("unknown", None, 1),
    ]
    expected = {"n": 8, "done": 2, "text wrong": 2, "not edited": 2, "edited elsewhere": 1, "rest spoilt": 1}
    assert count_causes(made) == expected
    assert causes_by_type(made) == {"add": expected}
    assert expected["n"] == sum(expected.values()) - expected["n"]


def test_without_a_judge_no_cause_is_known() -> None:
    assert count_causes([SampleRow("a", 0, "add", {"l1_target": 0.1})]) == {}


def test_samples_are_ranked_by_value_then_by_the_ties_then_by_key() -> None:
    first = {"a": 0.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 0.0}
    ties = {"a": 0.9, "b": 0.1, "c": 0.7, "e": 0.9}
    assert ranked([first, ties]) == ["c", "b", "d", "a", "e"]


def test_best_median_and_worst_are_the_ends_and_the_centre_of_the_ranked() -> None:
    assert split_ranked("abcdefghijk") == {"best": list("abc"), "median": list("efg"), "worst": list("ijk")}
    assert split_ranked("abcdefg") == {"best": list("ab"), "median": list("cd"), "worst": list("fg")}
    assert split_ranked("abc") == {"best": ["a"], "median": ["b"], "worst": ["c"]}
    assert split_ranked("ab") == {"best": ["a"], "median": [], "worst": ["b"]}
    assert split_ranked("a") == {"best": ["a"], "median": [], "worst": []}
    assert split_ranked("") == {"best": [], "median": [], "worst": []}


@pytest.mark.parametrize("count", range(12))
def test_no_sample_is_in_two_groups(count: int) -> None:
    found = [key for group in split_ranked([str(number) for number in range(count)]).values() for key in group]
    assert len(set(found)) == len(found)


def test_a_metric_of_which_less_is_better_ranks_the_other_way() -> None:
    made = [SampleRow("a", 0, "", {"l1": 0.1}), SampleRow("a", 1, "", {"l1": 0.3}), SampleRow("b", 0, "", {"l1": 0.1})]
    assert ranked([scores(made, "l1", higher_is_better=False)]) == ["b", "a"]
    assert gains({"a": 1.0, "b": 0.5}, {"b": 0.25, "c": 1.0}) == {"b": 0.25}


def test_samples_to_leaf_through_are_of_every_type() -> None:
    types = {f"add{number}": "add" for number in range(5)} | {"move1": "move", "style1": "style"}
    assert some_of_each(types, 4) == ["add0", "add1", "move1", "style1"]


@pytest.mark.parametrize(
    ("interval", "higher", "expected"),
    [
        (Interval(0.06, 0.02, 0.1, 600), True, "B is better than A in joint: +6.0\u00a0points [+2.0, +10.0], n = 600."),
        (Interval(-0.06, -0.1, -0.02, 600), True, "B is worse than A in joint"),
        (Interval(-0.06, -0.1, -0.02, 600), False, "B is better than A in joint"),
        (Interval(0.06, -0.02, 0.14, 50), True, "No difference in joint between B and A is shown"),
        (Interval(0.0, 0.0, 0.0, 50), True, "B and A are alike in joint on every sample, n = 50."),
        (Interval(1.0, math.nan, math.nan, 1), True, "Of B and A one common sample has joint, which shows nothing"),
    ],
)
def test_sentences_say_no_more_than_the_interval_allows(interval: Interval, higher: bool, expected: str) -> None:
    assert describe_difference("B", "A", "joint", interval, higher).startswith(expected)


def test_intervals_of_few_samples_come_with_a_warning() -> None:
    assert any("too narrow" in line for line in limits(Interval(0.5, 0.4, 0.6, 29)))
    assert not any("too narrow" in line for line in limits(Interval(0.5, 0.4, 0.6, 30)))
    assert limits(Interval(0.5, math.nan, math.nan, 1)) == ["One sample tells nothing about others."]


def test_it_says_how_many_intervals_would_exclude_zero_by_chance() -> None:
    intervals = [Interval(1, 0.5, 1.5, 9)] * 3 + [Interval(0, -1, 1, 9)] * 37 + [Interval(1, math.nan, math.nan, 1)]
    told = by_chance(intervals, 0.95)
    assert told.startswith("3 of 40 intervals")
    assert "about 2.0 would" in told


def test_the_measure_that_counts_comes_first() -> None:
    assert primary_metric(["success", "clip_directional_similarity", "joint"]) == "joint"
    assert primary_metric(["success", "clip_directional_similarity"]) == "clip_directional_similarity"
    assert primary_metric(["l1_target", "ssim_target"]) == "l1_target"
    assert primary_metric([]) is None


def test_axes_hold_all_values_between_round_ends() -> None:
    scale = axis([0.0, 1.0, 0.37, math.nan], 100, 0)
    assert scale.ticks == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert (scale(0.0), scale(1.0), scale(0.25)) == (100, 0, 75)
    assert [scale.label(tick) for tick in scale.ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    small = axis([-0.0313, 0.0291], 0, 10)
    assert small.ticks == (-0.04, -0.02, 0.0, 0.02, 0.04)
    assert [small.label(tick) for tick in small.ticks] == ["-0.04", "-0.02", "0.00", "0.02", "0.04"]
    for values in ([0.5], [0.0, 0.0], []):
        flat = axis(values, 0, 10)
        assert flat.low < flat.high


def test_letters_go_on_after_z() -> None:
    assert [letter_of(number) for number in (0, 1, 25, 26)] == ["A", "B", "Z", "A2"]


@pytest.mark.parametrize(("size", "kind", "shown"), [((64, 48), "png", (64, 48)), ((512, 256), "webp", (256, 128))])
def test_small_pictures_are_shown_to_the_bit_and_large_ones_smaller(
    size: tuple[int, int], kind: str, shown: tuple[int, int], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    head, _, content = data_uri(tmp_path / "a.png").partition(";base64,")
    assert head == f"data:image/{kind}"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.size == shown
        assert kind == "webp" or np.array_equal(np.asarray(image), pixels)


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_and_marks_stand_out_from_the_page(scheme: int, root: Path) -> None:
    style = (root / "mmig/evaluation/page/templates/style.css").read_text()
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]))
    for name in ("ink", "soft", "good", "bad", "c0", "c1", "c2", "c3", "c4", "c5"):
        for ground in ("paper", "card"):
            dark, bright = sorted((luminance(colours[name]), luminance(colours[ground])))
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (name, ground)  # WCAG 2.2, AA
