"""Asks a judge all that a benchmark asks, once; what a killed run has asked stays."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmig.evaluation.judged.aggregate import reading_of
from mmig.evaluation.judged.benchmark import Benchmark
from mmig.evaluation.judged.items import Item, Question
from mmig.evaluation.judged.judge import Judge
from mmig.evaluation.judged.prompts import Prompts
from mmig.evaluation.judged.record import Place, Record
from mmig.evaluation.judged.replies import BROKEN_PICTURE, NO_PICTURE, NO_SOURCE
from mmig.evaluation.pictures import PictureError


def all_questions(benchmark: Benchmark, items: Sequence[Item], prompts: Prompts) -> list[Question]:
    """Questions about all items, in their order."""
    return [question for item in items for question in benchmark.questions(item, prompts)]


def judge_all(
    benchmark: Benchmark,
    items: Sequence[Item],
    questions: Sequence[Question],
    judge: Judge,
    record: Record,
    num_passes: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """The rows of all questions; those that the record has are not asked again.

    Args:
        benchmark, items, questions: what is judged.
        judge: that is asked.
        record: open; gets every row as soon as it is there.
        num_passes: how often each question is asked.
        on_progress: called with the number of rows that are there, and of all.

    Raises:
        JudgedError: the record is of another judge or other words.
    """
    by_key = {item.key: item for item in items}
    asked = {(question.item, question.name, number): question for question in questions for number in range(num_passes)}
    hashes = {path: picture_hash(path) for path in {shown.path for one in questions for shown in one.pictures}}
    wanted = {place: _facts(question, judge, hashes) for place, question in asked.items()}
    kept = record.begin(wanted)
    rows = []
    for done, (place, question) in enumerate(asked.items()):
        on_progress(done, len(asked))
        if (row := kept.get(place)) is None:
            row = _ask(benchmark, by_key[question.item], question, place, wanted[place], judge)
            record.add(row)
        rows.append(row)
    on_progress(len(asked), len(asked))
    return rows


def _facts(question: Question, judge: Judge, hashes: Mapping[Path, str | None]) -> dict[str, Any]:
    pictures = [hashes[shown.path] for shown in question.pictures]
    return {"prompt_hash": question.prompt_hash, "pictures": pictures, "judge": judge.name}


def _ask(
    benchmark: Benchmark, item: Item, question: Question, place: Place, facts: Mapping[str, Any], judge: Judge
) -> dict[str, Any]:
    reply, failure = None, ""
    if None in facts["pictures"]:
        failure = NO_SOURCE if item.edited.is_file() else NO_PICTURE
    else:
        try:
            reply, failure = judge(question, place[2])
        except PictureError:
            failure = BROKEN_PICTURE
    row = {
        **dict(zip(("item", "question", "pass"), place, strict=True)),
        **facts,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "reply": reply,
        "failure": failure,
    }
    reading = reading_of(benchmark, item, row)
    scores = None if reading.scores is None else list(reading.scores)
    return {**row, "scores": scores, "failure": reading.failure}


def picture_hash(path: Path) -> str | None:
    """The first 16 digits of the sha256 of a file; None where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return None
