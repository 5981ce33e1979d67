"""ImgEdit-Bench (Ye et al. 2025): three scores of 1 to 5 an image in the basic suite of nine types, one in UGE.

The value of an image is the mean of its scores. REDEdit-Bench (FireRed, 2026) scores its 15 tasks in the same way.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from mmig.evaluation.judged.benchmark import Benchmark, Given, Official
from mmig.evaluation.judged.items import (
    Item,
    JudgedError,
    Question,
    Shown,
    existing,
    only_file,
    read_json,
    texts_of,
    unique,
)
from mmig.evaluation.judged.means import Answers, Measure
from mmig.evaluation.judged.prompts import Prompts
from mmig.evaluation.judged.replies import Reading, last_score, score_lines

QUESTION = "edit"
LOW, HIGH = 1.0, 5.0
NUM_SCORES = 3
_BASIC = ("basic_edit.json", "singleturn.json")
_UGE = ("UGE_edit.json", "hard.json")
_UGE_KIND = "UGE"


def read_items(names: Sequence[str], folder: Path, pictures: Path, language: str, unpacked: Path) -> list[Item]:
    """Items of {key: {id, prompt, edit_type}}, UGE's without a type.

    Args:
        names: of the file, any of which it may have.
        folder: with that file and the source pictures `id` below; or the file, with the pictures beside it.
        pictures: `KEY.png`, or what evaluate.py has kept.
        language: English alone.
        unpacked: not needed.

    Raises:
        JudgedError: no such file, or an item lacks a field.
    """
    file = only_file(folder, names)
    rows = read_json(file)
    if not isinstance(rows, Mapping):
        raise JudgedError(f"{file}: expected a JSON object of items, found {type(rows).__name__}")
    items = []
    for key, row in rows.items():
        source, instruction = texts_of(row, ("id", "prompt"), f"{file}, {key}")
        kind = _UGE_KIND if names is _UGE else texts_of(row, ("edit_type",), f"{file}, {key}")[0]
        items.append(Item(key, kind, instruction, (file.parent / source,), existing(pictures, key, [f"{key}.png"])))
    return unique(items, file)


def questions(name: str, item: Item, prompts: Prompts) -> list[Question]:
    """One question about source and edited picture: in the words for the item's type, of UGE in the only ones."""
    said = prompts.text(name or item.kind).replace("<edit_prompt>", item.instruction)
    return [Question(item.key, QUESTION, (said, Shown(item.sources[0]), Shown(item.edited)))]


def mean_score(item: Item, answers: Answers) -> float:
    """Mean of an image's scores, 1 to 5."""
    return sum(answers[QUESTION]) / len(answers[QUESTION])


MEASURES = (Measure("score", mean_score, lambda item: (QUESTION,), (LOW, HIGH)),)


def official_numbers(reply: str, strips: bool = False) -> list[int]:
    """Whole numbers that stand alone behind the only ": " of a line, any number of them, of any size."""
    found = []
    for line in reply.splitlines():
        parts = line.strip().split(": ")
        number = parts[-1].strip() if strips else parts[-1]
        if len(parts) == 2 and number.isdecimal():
            found.append(int(number))
    return found


def official(
    items: Sequence[Item], given: Given, missing: str, num_scores: int = NUM_SCORES, strips: bool = False
) -> Official:
    """step1_get_avgscore.py and step2_typescore.py; UGE's get_average_score.py; redbench_eval.py.

    Args:
        items, given: what was judged.
        missing: the defect that a missing picture is an instance of.
        num_scores: that were asked for.
        strips: whether blanks around a number are taken away, as REDEdit's copy does.
    """
    acted: Counter[str] = Counter()
    values: dict[str, float | None] = {}
    for item in items:
        values[item.key], reply = None, given.first(item, QUESTION)
        if item.key in given.missing:
            acted[missing] += 1
        elif not (numbers := official_numbers(reply or "", strips)):
            acted["unread_leaves_the_mean"] += 1
        else:
            acted["counts_any_number"] += len(numbers) != num_scores or not all(LOW <= n <= HIGH for n in numbers)
            values[item.key] = round(sum(numbers) / len(numbers), 2)
    return Official({"score": values}, acted, digits=2)


def _read(num_scores: int, item: Item, name: str, reply: str) -> Reading:
    return last_score(reply, LOW, HIGH) if num_scores == 1 else score_lines(reply, num_scores, LOW, HIGH)


def extremes(num_scores: int, item: Item, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lowest and highest scores of the question."""
    return (LOW,) * num_scores, (HIGH,) * num_scores


def benchmark(suite: str) -> Benchmark:
    """The suite "basic" (nine types) or "uge" (one)."""
    is_basic = suite == "basic"
    count = NUM_SCORES if is_basic else 1
    return Benchmark(
        name="imgedit" if is_basic else "imgedit_uge",
        languages=("en",),
        items=partial(read_items, _BASIC if is_basic else _UGE),
        questions=partial(questions, "" if is_basic else "prompt"),
        read=partial(_read, count),
        extremes=partial(extremes, count),
        measures=MEASURES,
        official=partial(official, missing="missing_stops_the_script", num_scores=count),
        headline="macro" if is_basic else "micro",
    )
