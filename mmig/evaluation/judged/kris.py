"""KRIS-Bench (Wu et al. 2025): consistency, quality, instruction and knowledge of 1 to 5, as (s - 1) 25 of 100.

Twenty categories in seven dimensions of three groups; knowledge is asked for in Social Science, Natural Science and
Logical Reasoning alone, together with the instruction ("dual").
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial

from mmig.evaluation.judged.benchmark import Benchmark, Given, Official
from mmig.evaluation.judged.items import Item
from mmig.evaluation.judged.kris_items import COMPOSITION, TEMPORAL, WITH_KNOWLEDGE, questions, read_items
from mmig.evaluation.judged.means import Answers, Measure, percent
from mmig.evaluation.judged.replies import Reading, named_scores

LOW, HIGH = 1.0, 5.0
_FIELDS = {
    "consistency": ("consistency_score",),
    "quality": ("quality_score",),
    "instruction": ("instruction_score",),
    "dual": ("instruction_score", "knowledge_score"),
}
_SCALE_BEHIND = (r"\s*/\s*", r"\s+out\s+of\s+")
_DIGIT = re.compile(r"\b[1-5]\b")
"""What the official scripts take in a reply without the JSON that they want: "4/5" or "4 out of 5", then any digit."""


def needed(item: Item) -> tuple[str, ...]:
    """Questions that an item is asked."""
    return ("consistency", "quality", "dual" if item.kind in WITH_KNOWLEDGE else "instruction")


def _one(name: str, place: int, item: Item, answers: Answers) -> float:
    wanted = _question(name, item)
    return percent(answers[wanted][place])


def _question(name: str, item: Item) -> str:
    return needed(item)[2] if name == "instruction" else name


def average(item: Item, answers: Answers) -> float:
    """Mean of an item's three or four scores, 0 to 100."""
    scores = [percent(score) for name in needed(item) for score in answers[name]]
    return sum(scores) / len(scores)


def _has_knowledge(item: Item) -> tuple[str, ...]:
    return ("dual",) if item.kind in WITH_KNOWLEDGE else ()


MEASURES = (
    Measure("AVG", average, needed, (0.0, 100.0)),
    Measure("VC", partial(_one, "consistency", 0), lambda item: ("consistency",), (0.0, 100.0)),
    Measure("VQ", partial(_one, "quality", 0), lambda item: ("quality",), (0.0, 100.0)),
    Measure("IF", partial(_one, "instruction", 0), lambda item: (needed(item)[2],), (0.0, 100.0)),
    Measure("KP", partial(_one, "dual", 1), _has_knowledge, (0.0, 100.0)),
)
_MEASURE_OF = {"consistency_score": "VC", "quality_score": "VQ", "instruction_score": "IF", "knowledge_score": "KP"}


def official_scores(item: Item, name: str, reply: str, acted: Counter[str]) -> dict[str, int]:
    """What the script for an item's category reads in a reply; scores that it misses are left out.

    JSON that has the name is cut to whole numbers. Without it the name and a digit behind it are looked for, but not by
    metrics_temporal_prediction.py and metrics_multi_element.py; and then any digit, but not by metrics_knowledge.py for
    "dual", which takes nothing else than JSON where there is some.
    """
    fields, knows = _FIELDS[name], item.kind in WITH_KNOWLEDGE
    block = re.search(rf"\{{[^{{}}]*{fields[0]}[^{{}}]*\}}", reply)
    try:
        found = json.loads(block[0]) if block else {}
        scores = {field: int(found[field]) for field in fields if found.get(field) is not None}
    except (ValueError, TypeError):
        block, found, scores = None, {}, {}
    if scores or (block and knows):
        acted["cuts_to_whole_numbers"] += any(float(found[field]) != score for field, score in scores.items())
        acted["counts_any_number"] += any(not LOW <= score <= HIGH for score in scores.values())
        return scores
    if item.groups.get("category") not in (TEMPORAL, COMPOSITION):
        for field in fields:
            colon = "[:：]" if knows else "[:：]?"
            spaced = field.replace("_", r"[_\s]*")
            if match := re.search(rf"{spaced}\s*{colon}\s*([1-5])", reply, re.IGNORECASE):
                scores[field] = int(match[1])
    if scores or name == "dual":
        return scores
    for word in _SCALE_BEHIND:
        if match := re.search(rf"([1-5]){word}5", reply, re.IGNORECASE):
            return {fields[0]: int(match[1])}
    digit = _DIGIT.search(reply)
    acted["takes_any_digit"] += digit is not None
    return {} if digit is None else {fields[0]: int(digit[0])}


def official(items: Sequence[Item], given: Given) -> Official:
    """The scripts metrics_*.py, and summarize.py of BAGEL's copy: flat means over scores."""
    acted: Counter[str] = Counter()
    values: dict[str, dict[str, float | None]] = {measure.name: {} for measure in MEASURES}
    weights: dict[str, int] = {}
    for item in items:
        scores: dict[str, int] = {}
        if item.key in given.missing:
            acted["missing_leaves_the_mean"] += 1
        else:
            for name in needed(item):
                scores |= official_scores(item, name, given.first(item, name) or "", acted)
            wanted = [field for name in needed(item) for field in _FIELDS[name]]
            acted["unread_leaves_the_mean"] += len(wanted) - len(scores)
            acted["knowledge_weighs_more"] += "knowledge_score" in scores
        percents = {field: percent(score) for field, score in scores.items()}
        for field, measure in _MEASURE_OF.items():
            values[measure][item.key] = percents.get(field)
        values["AVG"][item.key] = sum(percents.values()) / len(percents) if percents else None
        weights[item.key] = len(percents)
    return Official(values, acted, weights={"AVG": weights})


def _read(item: Item, name: str, reply: str) -> Reading:
    return named_scores(reply, _FIELDS[name], LOW, HIGH)


def _extremes(item: Item, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (LOW,) * len(_FIELDS[name]), (HIGH,) * len(_FIELDS[name])


def benchmark() -> Benchmark:
    """KRIS-Bench."""
    return Benchmark(
        name="kris",
        languages=("en",),
        items=read_items,
        questions=questions,
        read=_read,
        extremes=_extremes,
        measures=MEASURES,
        official=official,
        headline="micro",
    )
