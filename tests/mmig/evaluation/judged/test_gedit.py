"""GEdit-Bench: the official script's numbers and the mended ones on crafted replies, its items and questions."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmig.evaluation.judged.aggregate import aggregate
from mmig.evaluation.judged.benchmarks import BENCHMARKS, editscore
from mmig.evaluation.judged.items import JudgedError, Shown
from mmig.evaluation.judged.judge import opened
from mmig.evaluation.judged.prompts import own_prompts
from mmig.evaluation.judged.replies import NO_PICTURE
from tests.mmig.evaluation.judged import layouts
from tests.mmig.evaluation.judged.support import Rows, item, row, vie

GEDIT = BENCHMARKS["gedit"]()


def pair(key: str, sc: str | None, pq: str | None, failure: str = "", number: int = 0) -> Rows:
    return [row(key, "SC", sc, failure, number), row(key, "PQ", pq, failure, number)]


ITEMS = [item(key, kind, intersection=key != "d") for key, kind in zip("abcd", ("x", "x", "y", "y"), strict=True)]
ROWS = [
    *pair("a", vie([4, 9]), vie([9, 9])),
    *pair("b", "Sorry, no.", vie([8, 9])),
    *pair("c", None, None, NO_PICTURE),
    *pair("d", vie([5]), vie([12, 20])),
]


def test_corrected_counts_what_is_missing() -> None:
    result = aggregate(GEDIT, ITEMS, ROWS, "corrected")
    overall = result["measures"]["O"]
    assert overall["macro"]["value"] == math.sqrt(4 * 9)  # of b, c and d nothing is sure
    assert overall["micro"]["worst"] == pytest.approx((6 + 0 + 0 + 0) / 4)
    assert overall["micro"]["best"] == pytest.approx((6 + math.sqrt(10 * 8) + 10 + 10) / 4)
    assert result["measures"]["PQ"]["micro"]["value"] == (9 + 8) / 2
    assert result["measures"]["O (intersection)"]["micro"]["items"] == 3
    assert result["counts"] == {
        "items": 4,
        "complete": 1,
        "answers": 8,
        "read": 3,
        "not_read": {NO_PICTURE: 2, "score out of range": 1, "unreadable reply": 2},
    }
    assert result["defects"] == {}


def test_official_draws_skips_and_counts_any_number() -> None:
    result = aggregate(GEDIT, ITEMS, ROWS, "official", seed=3)
    drawn = random.Random("3/b/0").randint(0, 10)
    sums = result["measures"]["O"]
    assert sums["groups"]["kind"]["x"]["value"] == pytest.approx((6 + math.sqrt(drawn * 8)) / 2)
    assert sums["groups"]["kind"]["y"]["value"] == pytest.approx(math.sqrt(5 * 12))  # c left, 12 of 10 counts
    assert sums["groups"]["kind"]["y"]["n"] == 1
    assert result["defects"] == {"random_score": 1, "missing_leaves_the_mean": 1, "counts_any_number": 2}


def test_official_draws_for_a_readable_list_when_the_other_reply_is_not() -> None:
    rows = pair("a", "[6, 4]", "no")
    assert aggregate(GEDIT, ITEMS[:1], rows, "official")["defects"] == {"random_score": 2}
    fine = aggregate(GEDIT, ITEMS[:1], pair("a", "[6, 4]", "9"), "official")
    assert fine["measures"]["O"]["micro"]["value"] == 6


@pytest.mark.parametrize(
    "broken", ['{"score": [6, 2], "reasoning": "the "red" one"}', '{"score": []}', '{"score": "7"}']
)
def test_official_asks_for_ever_for_braces_that_it_cannot_read(broken: str) -> None:
    result = aggregate(GEDIT, ITEMS[:1], pair("a", broken, vie([9, 9])), "official")
    assert result["defects"] == {"asks_for_ever": 1}
    assert result["measures"]["O"]["micro"]["value"] is None


def test_official_repair_makes_sense_of_a_lone_number_without_quotation_marks() -> None:
    rows = pair("a", "{score: 4, reasoning: fine}", vie([9, 9]))
    result = aggregate(GEDIT, ITEMS[:1], rows, "official")
    assert result["measures"]["SC"]["micro"]["value"] == 4
    assert result["defects"] == {"counts_any_number": 1}
    twice = aggregate(GEDIT, ITEMS[:1], pair("a", "{score: 4} {score: 5}", vie([9, 9])), "official")
    assert twice["defects"] == {"asks_for_ever": 1}
    assert aggregate(GEDIT, ITEMS[:1], pair("a", "[7, 8", vie([9, 9])), "official")["defects"] == {"random_score": 1}


def test_official_draws_are_those_of_the_seed() -> None:
    def values(seed: int) -> Any:
        items = [item(str(number), "x", intersection=True) for number in range(40)]
        rows = [line for of in items for line in pair(of.key, "no", vie([10, 10]))]
        return aggregate(GEDIT, items, rows, "official", seed)["measures"]["SC"]["micro"]["value"]

    assert values(0) == values(0) != values(1)
    assert 3 < values(0) < 7


def test_editscore_divides_its_scale_and_means_its_passes() -> None:
    rows = pair("a", vie([20, 25]), vie([5, 10])) + pair("a", vie([25, 25]), vie([25, 25]), number=1)
    for mode in ("corrected", "official"):
        measures = aggregate(editscore(), ITEMS[:1], rows, mode)["measures"]
        assert measures["SC"]["micro"]["value"] == pytest.approx((8 + 10) / 2)
        assert measures["O"]["micro"]["value"] == pytest.approx((math.sqrt(8 * 2) + 10) / 2)


def test_editscore_draws_both_scores_of_a_pass() -> None:
    rows = pair("a", "no", vie([25, 25]))
    assert aggregate(editscore(), ITEMS[:1], rows, "official")["defects"] == {"random_score": 2}
    assert aggregate(editscore(), ITEMS[:1], rows, "corrected")["measures"]["PQ"]["micro"]["value"] == 10


def test_items_are_those_of_the_language_with_their_sources(tmp_path: Path) -> None:
    items, edited = layouts.write("gedit", tmp_path)
    found = GEDIT.items(items, edited, "en", tmp_path / "unpacked")
    assert [one.key for one in found] == ["color_alter/en/k0", "ps_human/en/k2", "ps_human/en/k3"]
    assert found[0].sources == (tmp_path / "unpacked/color_alter/en/k0.png",)  # no _SRCIMG.png: out of the parquet
    assert found[0].sources[0].read_bytes() == (items / "0.png").read_bytes()
    assert found[1].sources == (edited / "fullset/ps_human/en/k2_SRCIMG.png",)
    assert [one.about["intersection"] for one in found] == [True, True, False]
    assert [one.key for one in GEDIT.items(items, edited, "cn", tmp_path)] == ["color_alter/cn/k1"]


def test_a_data_set_saved_to_disk_and_json_lines_have_the_same_items(tmp_path: Path) -> None:
    from datasets import load_dataset

    items, edited = layouts.write("gedit", tmp_path)
    expected = GEDIT.items(items, edited, "en", tmp_path / "unpacked")
    rows = load_dataset("parquet", data_files=str(items / "data/*.parquet"), cache_dir=str(tmp_path / "cache"))["train"]
    rows.save_to_disk(tmp_path / "saved")
    assert GEDIT.items(tmp_path / "saved", edited, "en", tmp_path / "unpacked") == expected
    lines = tmp_path / "items.jsonl"
    rows.remove_columns("input_image").to_json(lines)
    found = GEDIT.items(lines, edited, "en", tmp_path / "unpacked")
    assert [(one.key, one.about) for one in found] == [(one.key, one.about) for one in expected]


def test_the_judge_sees_source_and_edited_picture_in_one_size(tmp_path: Path) -> None:
    items, edited = layouts.write("gedit", tmp_path)
    first = GEDIT.items(items, edited, "en", tmp_path / "unpacked")[0]
    asked = {question.name: question for question in GEDIT.questions(first, own_prompts("gedit"))}
    assert "make it 0" in asked["SC"].parts[-1]
    assert [opened(shown).size for shown in asked["SC"].pictures] == [(40, 32), (40, 32)]
    assert asked["PQ"].pictures == [Shown(first.edited, like=first.sources[0])]
    with Image.open(first.edited) as own:
        assert own.size == (64, 64)


def test_editscore_asks_on_its_own_scale(tmp_path: Path) -> None:
    prompts = own_prompts("gedit")
    text = editscore().questions(ITEMS[0], prompts)[0].parts[-1]
    assert "from 0 to 25" in text
    assert "10" not in text


def test_a_folder_without_the_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JudgedError, match=r"expected \*\.parquet"):
        GEDIT.items(tmp_path, tmp_path, "en", tmp_path)
