"""KRIS-Bench: the official scripts' numbers and the mended ones on crafted replies, its items and questions."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from mmig.evaluation.judged.aggregate import aggregate
from mmig.evaluation.judged.benchmarks import BENCHMARKS
from mmig.evaluation.judged.items import JudgedError, Shown
from mmig.evaluation.judged.kris import needed
from mmig.evaluation.judged.prompts import Prompts, own_prompts
from mmig.evaluation.judged.replies import NO_PICTURE
from tests.mmig.evaluation.judged import layouts
from tests.mmig.evaluation.judged.support import Rows, item, row

KRIS = BENCHMARKS["kris"]()
FACTUAL, KNOWING = "Attribute Perception", "Natural Science"


def named(**scores: float) -> str:
    return json.dumps({**{f"{name}_score": score for name, score in scores.items()}, "reasoning": "x"})


def rows_of(key: str, kind: str, replies: Mapping[str, str]) -> Rows:
    return [row(key, name, replies[name]) for name in needed(item(key, kind))]


ITEMS = [item("a", FACTUAL, {"group": "F"}), item("b", KNOWING, {"group": "C"}), item("c", FACTUAL, {"group": "F"})]
ROWS = [
    *rows_of(
        "a",
        FACTUAL,
        {"consistency": named(consistency=5), "quality": named(quality=3), "instruction": named(instruction=1)},
    ),
    *rows_of(
        "b",
        KNOWING,
        {"consistency": named(consistency=5), "quality": named(quality=5), "dual": named(instruction=5, knowledge=3)},
    ),
    *(row("c", name, None, NO_PICTURE) for name in ("consistency", "quality", "instruction")),
]


def test_officially_every_score_weighs_the_same_and_mended_every_item() -> None:
    official, corrected = (aggregate(KRIS, ITEMS, ROWS, mode) for mode in ("official", "corrected"))
    a, b = (100 + 50 + 0) / 3, (100 + 100 + 100 + 50) / 4
    assert official["measures"]["AVG"]["micro"]["value"] == pytest.approx((100 + 50 + 0 + 100 + 100 + 100 + 50) / 7)
    assert corrected["measures"]["AVG"]["micro"]["value"] == pytest.approx((a + b) / 2)
    assert corrected["measures"]["AVG"]["macro"]["value"] == pytest.approx((a + b) / 2)
    assert corrected["measures"]["AVG"]["micro"]["worst"] == pytest.approx((a + b + 0) / 3)
    assert official["measures"]["AVG"]["micro"]["best"] == pytest.approx((150 + 350 + 300) / 10)
    assert official["measures"]["KP"]["micro"]["value"] == 50
    assert official["measures"]["KP"]["micro"]["items"] == 1
    assert official["measures"]["AVG"]["groups"]["group"]["F"]["n"] == 1
    assert official["defects"] == {"knowledge_weighs_more": 1, "missing_leaves_the_mean": 1}


def test_officially_any_digit_is_a_score() -> None:
    reply = '1. The sky is as before.\nI would say good, "consistency_score": 4'
    rows = [row("a", "consistency", reply)]
    official = aggregate(KRIS, ITEMS[:1], rows, "official")
    assert official["measures"]["VC"]["micro"]["value"] == 0  # the 1 of the list, not the 4
    assert official["defects"]["takes_any_digit"] == 1
    assert aggregate(KRIS, ITEMS[:1], rows, "corrected")["measures"]["VC"]["micro"]["value"] == 75


def test_the_prompts_own_broken_json_loses_a_dual_score_officially() -> None:
    reply = '{\n"instruction_score": 4,\n"instruction_reasoning": 1. Detect 2. Match\n"knowledge_score": 2\n}'
    rows = [row("b", "dual", reply)]
    assert aggregate(KRIS, ITEMS[1:2], rows, "official")["measures"]["KP"]["micro"]["value"] is None
    assert aggregate(KRIS, ITEMS[1:2], rows, "corrected")["measures"]["KP"]["micro"]["value"] == 25
    plain = [row("b", "dual", "instruction score: 4, knowledge_score: 2")]
    assert aggregate(KRIS, ITEMS[1:2], plain, "official")["measures"]["KP"]["micro"]["value"] == 25


def test_what_officially_stands_in_for_json_depends_on_the_category() -> None:
    reply = "2. Frames follow. Consistency score: 4"

    def score(kind: str, category: str, text: str = reply) -> float | None:
        one = item("a", kind, {"category": category})
        measures = aggregate(KRIS, [one], [row("a", "consistency", text)], "official")["measures"]
        return measures["VC"]["micro"]["value"]

    assert score(FACTUAL, "count_change") == 75
    assert score("Temporal Prediction", "temporal_prediction") == 25  # the 2 of the list: names are not looked for
    empty = '{"consistency_score": null} 3/5'
    assert score(FACTUAL, "count_change", empty) == 50
    assert score(KNOWING, "biology", empty) is None


def test_officially_halves_are_cut_and_ranges_are_not_looked_at() -> None:
    rows = [row("a", "quality", named(quality=4.5)), row("a", "consistency", named(consistency=7))]
    official = aggregate(KRIS, ITEMS[:1], rows, "official")
    assert official["measures"]["VQ"]["micro"]["value"] == 75
    assert official["measures"]["VC"]["micro"]["value"] == 150
    assert {"cuts_to_whole_numbers": 1, "counts_any_number": 1}.items() <= official["defects"].items()
    corrected = aggregate(KRIS, ITEMS[:1], rows, "corrected")
    assert corrected["measures"]["VQ"]["micro"]["value"] == 87.5
    assert corrected["measures"]["VC"]["micro"]["value"] is None


def test_items_of_all_categories(tmp_path: Path) -> None:
    items, edited = layouts.write("kris", tmp_path)
    found = {one.key: one for one in KRIS.items(items, edited, "en", tmp_path)}
    assert len(found) == 7
    biology = found["biology/1"]
    assert (biology.kind, biology.groups) == (KNOWING, {"category": "biology", "group": "Conceptual Knowledge"})
    assert biology.edited == edited / "biology/1.png"
    biology.edited.rename(edited / "biology/1.jpg")  # as the original scripts want it
    again = {one.key: one for one in KRIS.items(items, edited, "en", tmp_path)}
    assert again["biology/1"].edited == edited / "biology/1.jpg"


def test_questions_show_what_the_category_needs(tmp_path: Path) -> None:
    items, edited = layouts.write("kris", tmp_path)
    found = {one.key: one for one in KRIS.items(items, edited, "en", tmp_path)}
    names = [f"prompt_{name}" for name in OFFICIAL]
    prompts = Prompts(
        {name: name + " {instruct}" + (" {explanation}" if "dual" in name else "") for name in names}, "x", ""
    )

    def asked(key: str) -> dict[str, tuple[str | Shown, ...]]:
        return {question.name: question.parts for question in KRIS.questions(found[key], prompts)}

    biology = asked("biology/1")
    assert list(biology) == ["consistency", "dual", "quality"]
    assert biology["dual"][0] == "prompt_dual_evaluation change biology because"
    assert biology["quality"][0] == "prompt_quality {instruct}"  # shown as it is, as the official scripts do
    temporal = asked("temporal_prediction/1")
    frames = [part for part in temporal["consistency"][1:] if isinstance(part, str)]
    assert temporal["instruction"][0] == "prompt_instruction_temporal change temporal_prediction"
    assert [frame.split(",")[0] for frame in frames] == ["Frame 1", "Frame 2", "Frame 3", "Frame 4"]
    assert temporal["consistency"][6] == Shown(found["temporal_prediction/1"].edited)  # frame 3 is the missing one
    viewpoint = asked("viewpoint_change/1")
    assert viewpoint["instruction"][-1] == Shown(items / "viewpoint_change/1_gt.jpg")
    assert len(viewpoint["consistency"]) == 5
    composed = asked("multi-element_composition/1")
    assert sum(isinstance(part, Shown) for part in composed["consistency"]) == 4


OFFICIAL = (
    "consist",
    "quality",
    "instruction_following",
    "dual_evaluation",
    "view_instruction_following",
    "consist_temporal",
    "instruction_temporal",
    "consist_multi",
    "instruction_multi",
)


def test_a_placeholder_that_is_not_known_is_refused(tmp_path: Path) -> None:
    items, edited = layouts.write("kris", tmp_path)
    first = KRIS.items(items, edited, "en", tmp_path)[0]
    with pytest.raises(JudgedError, match=r"--prompts p\.py: expected no other placeholders"):
        KRIS.questions(first, Prompts({"prompt_consist": "{secret}"}, "p.py", ""))
    with pytest.raises(JudgedError, match="expected a text 'prompt_consist', found none"):
        KRIS.questions(first, Prompts({}, "p.py", ""))
    assert KRIS.questions(first, own_prompts("kris"))


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JudgedError, match=r"expected CATEGORY/annotation\.json"):
        KRIS.items(tmp_path, tmp_path, "en", tmp_path)
