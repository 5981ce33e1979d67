"""RISEBench (Zhao et al. 2025): reasoning, consistency and plausibility of 360 edits that must be thought about.

Scores are 1 to 5, of logical puzzles 0 or 1. The headline is accuracy: all scores of an image are the highest. Beside
it stands a weighted score, as 25 (s - 1) of 100.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial

from mmig.evaluation.judged.benchmark import Benchmark, Given, Official
from mmig.evaluation.judged.items import Item
from mmig.evaluation.judged.means import Answers, Measure, percent
from mmig.evaluation.judged.replies import OUT_OF_RANGE, Reading, final_score
from mmig.evaluation.judged.rise_items import LOGICAL, is_free, needed, questions, read_items

BEFORE = "accuracy (before 2026-04-13)"
"""What the official script counted until its commit ce8cba3: items without a consistency score could never count."""
_DIGITS = r"Final Score{}\*{{0,2}}:?\s*([\d\s,*]*)"
_SHORT = {"consistency": "C", "reasoning": "R", "plausibility": "V"}


def on_five(item: Item, score: float) -> float:
    """A score as one of 1 to 5; a puzzle's 0 and 1 are its ends."""
    return 4 * min(score, 1) + 1 if item.kind == LOGICAL else score


def weighted(scores: dict[str, float], is_logical: bool, without_consistency: bool) -> float:
    """The weighted score, 1 to 5, of scores of 1 to 5 by their letters; halved, but not below 1, where R is 1."""
    if is_logical:
        score = 0.3 * scores["C"] + 0.7 * scores["R"]
    elif without_consistency:
        score = 0.2 * scores["V"] + 0.8 * scores["R"]
    else:
        score = 0.3 * scores["C"] + 0.5 * scores["R"] + 0.2 * scores["V"]
    return max(1.0, score * 0.5) if scores["R"] == 1 else score


def _scores(item: Item, answers: Answers) -> dict[str, float]:
    return {_SHORT[name]: on_five(item, answers[name][0]) for name in needed(item)}


def score(item: Item, answers: Answers) -> float:
    """The weighted score of an item, 0 to 100."""
    return percent(weighted(_scores(item, answers), item.kind == LOGICAL, is_free(item)))


def accuracy(item: Item, answers: Answers) -> float:
    """100 where all scores of an item are 5, else 0."""
    return 100.0 * all(found == 5 for found in _scores(item, answers).values())


def _one(name: str, item: Item, answers: Answers) -> float:
    return percent(on_five(item, answers[name][0]))


def _if_asked(name: str, item: Item) -> tuple[str, ...]:
    return (name,) if name in needed(item) else ()


_SCALE = (0.0, 100.0)
MEASURES = (
    Measure("accuracy", accuracy, needed, _SCALE),
    Measure(BEFORE, accuracy, needed, _SCALE, official_only=True),
    Measure("score", score, needed, _SCALE),
    *(Measure(name, partial(_one, name), partial(_if_asked, name), _SCALE) for name in _SHORT),
)


def official_numbers(reply: str) -> list[int]:
    """All whole numbers behind the first "Final Score" that has any."""
    for plural in ("", "s"):
        for match in re.findall(_DIGITS.format(plural), reply, re.IGNORECASE):
            if numbers := re.findall(r"\d+", match):
                return [int(number) for number in numbers]
    return []


def official(items: Sequence[Item], given: Given) -> Official:
    """gpt_eval.py as of 2026-05-18, and its accuracy as of before 2026-04-13."""
    acted: Counter[str] = Counter()
    values: dict[str, dict[str, float | None]] = {measure.name: {} for measure in MEASURES}
    has_column = any(is_free(item) for item in items)  # a table's cells are NaN, which is true, where others have one
    for item in items:
        found: dict[str, float | None] = dict.fromkeys(values)
        if item.key in given.missing:
            acted["missing_stops_the_script"] += 1
        else:
            numbers = {name: official_numbers(given.first(item, name) or "") for name in needed(item)}
            if any(len(listed) > 1 for listed in numbers.values()) and all(numbers.values()):
                acted["two_numbers_stop_the_script"] += 1
            elif all(numbers.values()):
                found |= _official_item(item, {name: listed[0] for name, listed in numbers.items()}, has_column, acted)
            else:
                acted["unread_leaves_the_score_alone"] += 1
                found |= {"accuracy": 0.0, BEFORE: 0.0}
        for measure, value in found.items():
            values[measure][item.key] = value
    return Official(values, acted)


def _official_item(item: Item, numbers: dict[str, int], has_column: bool, acted: Counter[str]) -> dict[str, float]:
    """Values of an item whose replies have a number each."""
    by_name = {name: on_five(item, number) for name, number in numbers.items()}
    acted["counts_any_number"] += any(
        number not in ((0, 1) if item.kind == LOGICAL else range(1, 6)) for number in numbers.values()
    )
    is_logical = item.kind == LOGICAL
    wrong_formula = has_column and not is_logical and not is_free(item)
    acted["nan_is_true"] += wrong_formula
    acted["free_never_complete"] += is_free(item) and not is_logical and set(by_name.values()) == {5}
    scores = {_SHORT[name]: number for name, number in by_name.items()}
    complete = 100.0 * all(number == 5 for number in by_name.values())
    return {
        "accuracy": complete,
        BEFORE: 0.0 if "consistency" not in numbers else complete,
        "score": percent(weighted(scores, is_logical, wrong_formula or is_free(item))),
        **{name: percent(number) for name, number in by_name.items()},
    }


def _read(item: Item, name: str, reply: str) -> Reading:
    low, high = _extremes(item, name)
    reading = final_score(reply, *low, *high)
    if reading.scores is not None and reading.scores[0] != int(reading.scores[0]):
        return Reading(None, OUT_OF_RANGE)
    return reading


def _extremes(item: Item, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return ((0.0,), (1.0,)) if item.kind == LOGICAL else ((1.0,), (5.0,))


def benchmark() -> Benchmark:
    """RISEBench."""
    return Benchmark(
        name="risebench",
        languages=("en",),
        items=read_items,
        questions=questions,
        read=_read,
        extremes=_extremes,
        measures=MEASURES,
        official=official,
        headline="micro",
    )
