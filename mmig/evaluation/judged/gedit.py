"""GEdit-Bench (Liu et al. 2025, Step1X-Edit): success, overediting, naturalness and artefacts, 0 to 10, by 11 types.

An image's semantic consistency SC and perceptual quality PQ are the lesser of their two scores, its overall score is
O = sqrt(SC PQ) (VIEScore, Ku et al. 2024). EditScore (Luo et al. 2025) asks the same on another scale, several
times, and divides.
"""

import json
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from mmig.evaluation.judged.benchmark import Benchmark, Given, Official
from mmig.evaluation.judged.gedit_items import read_items
from mmig.evaluation.judged.items import Item, Question, Shown
from mmig.evaluation.judged.means import Answers, Measure
from mmig.evaluation.judged.prompts import Prompts
from mmig.evaluation.judged.replies import Reading, score_list

HIGHEST = 10.0
QUESTIONS = ("SC", "PQ")
DELIMITER = "||V^=^V||"
_RULES = {
    "SC": ("_prompts_0shot_two_image_edit_rule", "_prompts_0shot_tie_rule_SC"),
    "PQ": ("_prompts_0shot_rule_PQ",),
}
_BARE_LIST = re.compile(r"\[\d+, ?\d+\]")
_LONE_NUMBER = re.compile(r"\{\s*score:\s*(-?\d+(?:\.\d+)?)\s*(?:,\s*\w+:[^{}\",:\[\]]*)*\}")
"""What viescore's repair of JSON makes sense of: names without quotation marks, and one number."""


def questions(item: Item, prompts: Prompts, scale: float = HIGHEST) -> list[Question]:
    """SC about source and edited picture, PQ about the edited one alone; it is resized to the source's size.

    Pictures stand before the words, as for the official script's Qwen2.5-VL and for EditScore; GPT gets them behind.
    On another scale than 10 the words are EditScore's: reasons first, and its rules with that number for every "10".
    """
    context = "_context_no_delimit" if scale == HIGHEST else "_context_no_delimit_reasoning_first"
    texts = {}
    for name in QUESTIONS:
        rules = prompts.text(name, _RULES[name]).replace("10", f"{scale:g}")
        told = rules if prompts.is_own else "\n".join([prompts.text(context), rules])
        texts[name] = told.replace("<instruction>", item.instruction)
    edited = Shown(item.edited, like=item.sources[0])
    return [
        Question(item.key, "SC", (Shown(item.sources[0]), edited, texts["SC"])),
        Question(item.key, "PQ", (edited, texts["PQ"])),
    ]


def least(name: str, scale: float, item: Item, answers: Answers) -> float:
    """SC or PQ, on 0 to 10."""
    return min(answers[name]) * HIGHEST / scale


def overall(scale: float, item: Item, answers: Answers) -> float:
    """O = sqrt(SC PQ), on 0 to 10."""
    return math.sqrt(least("SC", scale, item, answers) * least("PQ", scale, item, answers))


def _measures(scale: float) -> tuple[Measure, ...]:
    def needs(names: tuple[str, ...], shared: bool, item: Item) -> tuple[str, ...]:
        return names if not shared or item.about["intersection"] else ()

    found = []
    for shared in (False, True):
        told = " (intersection)" if shared else ""
        of_all = {"O": partial(overall, scale), **{name: partial(least, name, scale) for name in QUESTIONS}}
        for name, of in of_all.items():
            names = QUESTIONS if name == "O" else (name,)
            found.append(Measure(name + told, of, partial(needs, names, shared), (0.0, HIGHEST)))
    return tuple(found)


def official(items: Sequence[Item], given: Given, scale: float = HIGHEST) -> Official:
    """test_gedit_score.py with viescore/utils.py, then calculate_statistics.py; on EditScore's scale its `evaluate`."""
    acted: Counter[str] = Counter()
    values: dict[str, dict[str, float | None]] = {measure.name: {} for measure in _measures(scale)}
    for item in items:
        passes: list[tuple[float, float] | None] = []
        if item.key in given.missing:
            acted["missing_leaves_the_mean"] += 1
        else:
            for number in range(len(given.of(item, "SC"))):
                replies = [given.of(item, name)[number] or "" for name in QUESTIONS]
                draw = random.Random(f"{given.seed}/{item.key}/{number}")
                passes.append(_official_pair(replies, draw, scale, acted))
        for name, of_item in values.items():
            of_item[item.key] = None if None in passes or not passes else _mean_of(name.split()[0], passes)
    return Official(values, acted)


def _mean_of(name: str, pairs: Sequence[Any]) -> float:
    of_pair = {"SC": lambda sc, pq: sc, "PQ": lambda sc, pq: pq, "O": lambda sc, pq: math.sqrt(sc * pq)}[name]
    return sum(of_pair(*pair) for pair in pairs) / len(pairs)


def _official_pair(
    replies: Sequence[str], draw: random.Random, scale: float, acted: Counter[str]
) -> tuple[float, float] | None:
    """SC and PQ of a pass; None where the script would ask for ever, as it does for braces that it cannot read."""
    is_own_scale = scale == HIGHEST
    found = [_official_scores(reply) if is_own_scale else _repaired(reply) for reply in replies]
    drawn = [False] * len(found)
    if None in found or "" in found:  # it asks for both again, and a greedy judge says the same
        drawn = [not is_own_scale or "{" not in reply or "}" not in reply for reply in replies]
        found = [
            [draw.randint(0, int(scale))] if by_chance else old for by_chance, old in zip(drawn, found, strict=True)
        ]
        acted["random_score"] += sum(drawn)
    try:
        sc, pq = (min(scores) * HIGHEST / scale for scores in found)
        math.sqrt(sc * pq)
    except (TypeError, ValueError):
        acted["asks_for_ever"] += 1
        return None
    taken = [scores for scores, by_chance in zip(found, drawn, strict=True) if not by_chance]
    acted["counts_any_number"] += sum(
        len(scores) != 2 or not all(0 <= score <= scale for score in scores) for scores in taken
    )
    return sc, pq


def _repaired(reply: str) -> list[float] | None:
    """EditScore's reader, which mends JSON in several ways; ours finds the same list without."""
    scores = score_list(reply, 2, -math.inf, math.inf).scores
    return None if scores is None else list(scores)


def _official_scores(reply: str) -> Any:
    """A first try: a list of anything; None where no JSON is found, "" where it is found and cannot be read."""
    if reply.count(DELIMITER) == 2:
        text = reply.split(DELIMITER)[1]
    elif "{" in reply and "}" in reply:
        text = reply[reply.find("{") : reply.rfind("}") + 1]
    elif _BARE_LIST.fullmatch(listed := reply[reply.find("[") : reply.rfind("]") + 1]):
        return json.loads(listed)
    else:
        return [int(reply)] if re.fullmatch(r"\s*(10|\d)\s*", reply) else None
    try:
        scores = json.loads(text.strip().replace("\n", ""))["score"]
    except (ValueError, KeyError, TypeError):
        lone = _LONE_NUMBER.fullmatch(text.strip().replace("\n", ""))
        return [float(lone[1])] if lone else ""
    return scores if isinstance(scores, list) else [scores]


def benchmark(scale: float = HIGHEST) -> Benchmark:
    """GEdit-Bench; on 25 as EditScore asks."""

    def read(item: Item, name: str, reply: str) -> Reading:
        return score_list(reply, 2, 0, scale)

    return Benchmark(
        name="gedit",
        languages=("en", "cn"),
        items=read_items,
        questions=partial(questions, scale=scale),
        read=read,
        extremes=lambda item, name: ((0.0, 0.0), (scale, scale)),
        measures=_measures(scale),
        official=partial(official, scale=scale),
        headline="macro",
    )
