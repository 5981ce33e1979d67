"""RISEBench: the official script's numbers and the mended ones on crafted replies, its items and questions."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from mmig.evaluation.judged.aggregate import aggregate
from mmig.evaluation.judged.benchmarks import BENCHMARKS
from mmig.evaluation.judged.items import Item, Shown
from mmig.evaluation.judged.judge import opened
from mmig.evaluation.judged.prompts import Prompts, own_prompts
from mmig.evaluation.judged.rise import BEFORE
from tests.mmig.evaluation.judged import layouts
from tests.mmig.evaluation.judged.support import Rows, item, row

RISE = BENCHMARKS["risebench"]()
T, S, L = "temporal_reasoning", "spatial_reasoning", "logical_reasoning"


def rows_of(one: Item, scores: Mapping[str, float | str]) -> Rows:
    names = {"C": "consistency", "R": "reasoning", "V": "plausibility"}
    return [row(one.key, names[letter], f"so\n**Final Score:** **{score}**") for letter, score in scores.items()]


USUAL, FREE, PUZZLE = item("t", T), item("s", S, consistency_free=True), item("l", L)


def test_officially_no_item_uses_the_formula_with_consistency() -> None:
    rows = rows_of(USUAL, {"C": 1, "R": 3, "V": 5}) + rows_of(FREE, {"R": 5, "V": 5})
    official, corrected = (aggregate(RISE, [USUAL, FREE], rows, mode) for mode in ("official", "corrected"))
    assert official["measures"]["score"]["groups"]["kind"][T]["value"] == pytest.approx(25 * (0.8 * 3 + 0.2 * 5 - 1))
    mended = 25 * (0.3 * 1 + 0.5 * 3 + 0.2 * 5 - 1)
    assert corrected["measures"]["score"]["groups"]["kind"][T]["value"] == pytest.approx(mended)
    assert official["defects"] == {"nan_is_true": 1, "free_never_complete": 1}


def test_without_the_column_the_official_formula_is_the_right_one() -> None:
    rows = rows_of(USUAL, {"C": 1, "R": 3, "V": 5})
    official, corrected = (
        aggregate(RISE, [USUAL], rows, mode)["measures"]["score"] for mode in ("official", "corrected")
    )
    assert official["micro"]["value"] == corrected["micro"]["value"]


def test_items_without_consistency_count_as_complete_only_after_the_official_mending() -> None:
    rows = rows_of(USUAL, {"C": 5, "R": 5, "V": 5}) + rows_of(FREE, {"R": 5, "V": 5})
    measures = aggregate(RISE, [USUAL, FREE], rows, "official")["measures"]
    assert measures["accuracy"]["micro"]["value"] == 100
    assert measures[BEFORE]["micro"]["value"] == 50
    assert BEFORE not in aggregate(RISE, [USUAL, FREE], rows, "corrected")["measures"]


def test_a_wrong_answer_halves_the_score_but_not_below_the_lowest() -> None:
    rows = rows_of(USUAL, {"C": 5, "R": 1, "V": 5})
    score = aggregate(RISE, [USUAL], rows, "corrected")["measures"]["score"]["micro"]["value"]
    assert score == pytest.approx(25 * ((0.3 * 5 + 0.5 * 1 + 0.2 * 5) / 2 - 1))
    low = aggregate(RISE, [USUAL], rows_of(USUAL, {"C": 1, "R": 1, "V": 1}), "corrected")
    assert low["measures"]["score"]["micro"]["value"] == 0


def test_puzzles_are_right_or_wrong() -> None:
    rows = rows_of(PUZZLE, {"C": 1, "R": 0})
    for mode in ("official", "corrected"):
        measures = aggregate(RISE, [PUZZLE], rows, mode)["measures"]
        assert measures["score"]["micro"]["value"] == pytest.approx(25 * ((0.3 * 5 + 0.7 * 1) / 2 - 1))
        assert measures["accuracy"]["micro"]["value"] == 0
    five = rows_of(PUZZLE, {"C": 5, "R": 3})
    official = aggregate(RISE, [PUZZLE], five, "official")
    assert official["measures"]["accuracy"]["micro"]["value"] == 100
    assert official["defects"] == {"counts_any_number": 1}
    assert aggregate(RISE, [PUZZLE], five, "corrected")["measures"]["accuracy"]["micro"]["value"] is None


def test_an_unreadable_reply_leaves_the_official_score_and_lowers_the_accuracy() -> None:
    other = item("u", T)
    rows = rows_of(USUAL, {"C": 5, "R": 5, "V": 5}) + rows_of(other, {"C": 5, "R": "?", "V": 5})
    official = aggregate(RISE, [USUAL, other], rows, "official")
    assert official["measures"]["score"]["micro"]["value"] == 100
    assert official["measures"]["accuracy"]["micro"]["value"] == 50
    assert official["defects"] == {"unread_leaves_the_score_alone": 1}
    corrected = aggregate(RISE, [USUAL, other], rows, "corrected")["measures"]
    assert corrected["accuracy"]["micro"]["value"] == 100
    assert (corrected["accuracy"]["micro"]["worst"], corrected["accuracy"]["micro"]["best"]) == (50, 100)
    assert corrected["consistency"]["micro"]["n"] == 2  # its other scores still count


def test_two_numbers_stop_the_official_script() -> None:
    rows = rows_of(USUAL, {"C": "4, 5", "R": 5, "V": 5})
    official = aggregate(RISE, [USUAL], rows, "official")
    assert official["defects"] == {"two_numbers_stop_the_script": 1}
    assert official["measures"]["accuracy"]["micro"]["value"] is None


def test_items_and_questions(tmp_path: Path) -> None:
    items, edited = layouts.write("risebench", tmp_path)
    found = {one.kind: one for one in RISE.items(items, edited, "en", tmp_path)}
    assert found[T].edited == edited / "images" / T / f"{T}_1.png"
    assert found[T].groups == {"subtask": "Life Progression"}
    names = {"consist": "", "reasoning": "{reference}", "reasoning_w_input": "{reference}", "generation": "{instruct}"}
    more = ("spatial_ref", "spatial_qual", "logical_cons", "logical_img")
    prompts = Prompts({f"prompt_{name}": f"{name} {names.get(name, '')}" for name in (*names, *more)}, "x", "")

    def asked(kind: str) -> dict[str, tuple[str | Shown, ...]]:
        return {question.name: question.parts for question in RISE.questions(found[kind], prompts)}

    assert list(asked(T)) == ["consistency", "reasoning", "plausibility"]
    assert asked(T)["reasoning"][0] == "reasoning old"
    assert len(asked(T)["reasoning"]) == 2
    assert asked(T)["plausibility"][0] == "generation {instruct}"  # not filled in, as in the official script
    assert asked("causal_reasoning")["reasoning"][0] == "reasoning_w_input broken"
    assert len(asked("causal_reasoning")["reasoning"]) == 3
    assert list(asked(S)) == ["reasoning", "plausibility"]
    logical = asked(L)
    assert logical["reasoning"][1] == Shown(items / "logical_reasoning_images/1_ref.png", longest=768)
    assert list(logical) == ["consistency", "reasoning"]
    assert opened(asked(T)["plausibility"][1]).size == (768, 384)
    assert RISE.questions(found[S], own_prompts("risebench"))


def test_one_item_that_leaves_its_question_out_does_so_for_all_puzzles(tmp_path: Path) -> None:
    items, edited = layouts.write("risebench", tmp_path)
    path = items / "datav2_total_w_subtask.json"
    path.write_text(
        path.read_text().replace('"reasoning_img": true', '"reasoning_img": true, "reasoning_wo_ins": true')
    )
    puzzle = next(one for one in RISE.items(items, edited, "en", tmp_path) if one.kind == L)
    prompts = Prompts({"prompt_logical_cons": "c", "prompt_logical_img_wo_q": "{no} question"}, "x", "")
    assert RISE.questions(puzzle, prompts)[1].parts[0] == "{no} question"
