"""ImgEdit-Bench and REDEdit-Bench: the official scripts' numbers and the mended ones on crafted replies."""

from pathlib import Path

import pytest

from mmig.evaluation.judged.aggregate import aggregate
from mmig.evaluation.judged.benchmarks import BENCHMARKS
from mmig.evaluation.judged.items import JudgedError
from mmig.evaluation.judged.prompts import own_prompts
from mmig.evaluation.judged.replies import NO_PICTURE
from tests.mmig.evaluation.judged import layouts
from tests.mmig.evaluation.judged.support import item, lines, row

BASIC, UGE, REDEDIT = (BENCHMARKS[name]() for name in ("imgedit", "imgedit_uge", "rededit"))
ITEMS = [item(key, kind) for key, kind in (("a", "add"), ("b", "add"), ("c", "add"), ("d", "style"), ("e", "style"))]
ROWS = [
    row("a", "edit", lines(4, 4, 3)),
    row("b", "edit", "**Prompt Compliance:** 2\nVisual Seamlessness: 1/5\nDetail: 1."),
    row("c", "edit", lines(5, 5)),
    row("d", "edit", lines(5, 5, 5)),
    row("e", "edit", None, NO_PICTURE),
]


def test_corrected_reads_markdown_and_counts_what_is_missing() -> None:
    score = aggregate(BASIC, ITEMS, ROWS, "corrected")["measures"]["score"]
    a, b, d = 11 / 3, 4 / 3, 5
    assert score["micro"]["value"] == pytest.approx((a + b + d) / 3)
    assert score["macro"]["value"] == pytest.approx(((a + b) / 2 + d) / 2)
    assert score["micro"]["worst"] == pytest.approx((a + b + 1 + d + 1) / 5)
    assert score["micro"]["best"] == pytest.approx((a + b + 5 + d + 5) / 5)


def test_official_takes_plain_lines_of_any_number_and_rounds_twice() -> None:
    result = aggregate(BASIC, ITEMS, ROWS, "official")
    score = result["measures"]["score"]
    assert score["groups"]["kind"]["add"]["value"] == 4.33  # (3.67 + 5.0) / 2 = 4.335, which is 4.33 in binary
    assert score["groups"]["kind"]["style"]["value"] == 5
    assert score["macro"]["value"] == pytest.approx((4.33 + 5) / 2)
    assert score["micro"]["value"] == round((3.67 + 5 + 5) / 3, 2)
    assert result["defects"] == {"unread_leaves_the_mean": 1, "counts_any_number": 1, "missing_stops_the_script": 1}


def test_a_ten_counts_as_ten_officially() -> None:
    rows = [row("a", "edit", "Prompt Compliance: 10\nA: 1\nB: 1")]
    assert aggregate(BASIC, ITEMS[:1], rows, "official")["measures"]["score"]["micro"]["value"] == 4
    assert aggregate(BASIC, ITEMS[:1], rows, "corrected")["measures"]["score"]["micro"]["value"] is None


def test_uge_reads_its_own_readme_only_when_mended() -> None:
    items = [item("31", "UGE"), item("30", "UGE"), item("29", "UGE")]
    replies = ["Brief reasoning: distorted. Score: 2.", "Brief reasoning: unnatural. Score: 3 (Acceptable)", "Score: 4"]
    rows = [row(one.key, "edit", reply) for one, reply in zip(items, replies, strict=True)]
    official = aggregate(UGE, items, rows, "official")
    assert official["measures"]["score"]["micro"]["value"] == 4
    assert official["defects"] == {"unread_leaves_the_mean": 2}
    assert aggregate(UGE, items, rows, "corrected")["measures"]["score"]["micro"]["value"] == 3


def test_rededit_forgives_blanks_and_skips_missing_pictures() -> None:
    rows = [row("a", "edit", "A:  4\nB:  2\nC:  3"), row("e", "edit", None, NO_PICTURE)]
    red = aggregate(REDEDIT, ITEMS, rows, "official")
    assert red["measures"]["score"]["macro"]["value"] == 3
    assert red["defects"] == {"missing_leaves_the_mean": 1, "unread_leaves_the_mean": 3}
    assert aggregate(BASIC, ITEMS[:1], rows[:1], "official")["defects"] == {"unread_leaves_the_mean": 1}


def test_items_of_the_basic_suite(tmp_path: Path) -> None:
    items, edited = layouts.write("imgedit", tmp_path)
    found = BASIC.items(items, edited, "en", tmp_path)
    assert [(one.key, one.kind) for one in found] == [
        ("100", "add"),
        ("101", "add"),
        ("102", "style"),
        ("103", "extract"),
    ]
    assert found[0].sources == (items / "animal/0.jpg",)
    assert found[0].edited == edited / "100.png"
    assert BASIC.items(items / "basic_edit.json", edited, "en", tmp_path) == found
    (question,) = BASIC.questions(found[2], own_prompts("imgedit"))
    assert "edit 2" in question.parts[0]
    assert [shown.path for shown in question.pictures] == [found[2].sources[0], found[2].edited]


def test_items_of_uge_have_one_type(tmp_path: Path) -> None:
    items, edited = layouts.write("imgedit_uge", tmp_path)
    assert {one.kind for one in UGE.items(items, edited, "en", tmp_path)} == {"UGE"}


def test_an_item_without_a_type_is_refused(tmp_path: Path) -> None:
    layouts.write_json(tmp_path / "basic_edit.json", {"1": {"id": "a.jpg", "prompt": "x"}})
    with pytest.raises(JudgedError, match=r"basic_edit\.json, 1: expected a field 'edit_type'"):
        BASIC.items(tmp_path, tmp_path, "en", tmp_path)


def test_rededit_items_in_both_languages_and_all_three_layouts(tmp_path: Path) -> None:
    items, edited = layouts.write("rededit", tmp_path)
    (edited / "text/text-3.png").rename(edited / "text/3.png")
    found = {one.key: one for one in REDEDIT.items(items, edited, "en", tmp_path)}
    assert found["text/3"].edited == edited / "text/3.png"
    assert found["add/1"].edited == edited / "add/add-1.png"
    assert found["add/1"].sources == (items / "redbench/add/add-1.png",)
    assert found["add/1"].instruction == "edit 1"
    assert REDEDIT.items(items, edited, "cn", tmp_path)[0].instruction == "改"
    (question,) = REDEDIT.questions(found["add/1"], own_prompts("rededit"))
    assert [type(part).__name__ for part in question.parts] == ["Shown", "str", "Shown", "str", "str"]
