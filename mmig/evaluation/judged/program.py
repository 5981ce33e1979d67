"""What `python -m mmig.evaluation.judged` does after its arguments are parsed."""

import logging
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from mmig.base.batches import chosen_device
from mmig.base.files import write_json_lines
from mmig.base.versions import describe_code
from mmig.evaluation.judged.aggregate import aggregate
from mmig.evaluation.judged.benchmark import Benchmark
from mmig.evaluation.judged.benchmarks import BENCHMARKS, editscore
from mmig.evaluation.judged.items import Item, JudgedError, Question
from mmig.evaluation.judged.judge import GivenReplies, Judge, ModelJudge, ModelSettings
from mmig.evaluation.judged.judging import all_questions, judge_all
from mmig.evaluation.judged.making import make_pictures
from mmig.evaluation.judged.prompts import Prompts, own_prompts, read_prompts
from mmig.evaluation.judged.record import Record
from mmig.evaluation.judged.report import show, write_results
from mmig.evaluation.opening import open_named
from mmig.evaluation.overrides import with_sampling
from mmig.language.chat import Sampling

logger = logging.getLogger(__name__)
EDITSCORE_TEMPERATURE = 0.7
UNPACKED = "sources"


def run(arguments: Namespace) -> None:
    """Judge, aggregate, write and show.

    Raises:
        ValueError: items, prompts, replies, judge or folders that cannot be used.
    """
    benchmark = editscore() if arguments.editscore else BENCHMARKS[arguments.benchmark]()
    out, facts = Path(arguments.out), benchmark.facts
    prompts = (
        own_prompts(benchmark.name) if arguments.prompts is None else read_prompts(arguments.prompts, facts["prompts"])
    )
    items = _items(benchmark, arguments)
    if arguments.checkpoint is not None or arguments.config is not None:
        _make(items, arguments)
        items = _items(benchmark, arguments)
    _refuse_none(items, arguments.pictures)
    questions = all_questions(benchmark, items, prompts)
    if arguments.write_questions:
        write_json_lines(out / "questions.jsonl", [_question_line(question) for question in questions])
        Console().print(f"written: {out / 'questions.jsonl'}, {len(questions)} questions", highlight=False)
        return
    judge = _judge(arguments)
    with Record(out) as record, _progress("judged") as on_progress:
        rows = judge_all(benchmark, items, questions, judge, record, arguments.passes, on_progress)
    results = {
        **aggregate(benchmark, items, rows, arguments.mode, arguments.seed),
        "title": facts["title"] + (", judged as EditScore" if arguments.editscore else ""),
        "language": _language(benchmark, arguments),
        "judge": judge.name,
        "passes": arguments.passes,
        "prompts": prompts.describe(),
        "items": str(arguments.items),
        "pictures": str(arguments.pictures),
        "seed": arguments.seed,
        "command": arguments.command,
        **describe_code(),
    }
    results["not_comparable"] = not_comparable(benchmark, items, prompts, results)
    write_results(out, benchmark, items, rows, results)
    show(results, facts, out)


def _language(benchmark: Benchmark, arguments: Namespace) -> str:
    language = arguments.language or benchmark.languages[0]
    if language not in benchmark.languages:
        raise JudgedError(f"--language {language}: {benchmark.name} has {', '.join(benchmark.languages)}")
    return language


def _items(benchmark: Benchmark, arguments: Namespace) -> list[Item]:
    makes = arguments.checkpoint is not None or arguments.config is not None
    for option in ("items", *(() if makes else ("pictures",))):
        if not getattr(arguments, option).exists():
            raise JudgedError(f"--{option} {getattr(arguments, option)}: no such file or folder")
    language = _language(benchmark, arguments)
    return benchmark.items(arguments.items, arguments.pictures, language, Path(arguments.out) / UNPACKED)


def _refuse_none(items: Sequence[Item], pictures: Path) -> None:
    if not any(item.edited.is_file() for item in items):
        raise JudgedError(
            f"--pictures {pictures}: none of {len(items)} edited pictures is there; expected such as {items[0].edited}"
        )


def _make(items: Sequence[Item], arguments: Namespace) -> None:
    """Make the pictures that are not there."""
    device = chosen_device(arguments.device)
    opened = open_named(arguments.checkpoint, arguments.config, device=device)
    editor = with_sampling(opened.editor, arguments.sampling)
    facts = {**opened.facts, "sampling": vars(editor.sampling)}
    resolution = arguments.resolution or opened.resolution
    with _progress("edited") as on_progress:
        make_pictures(items, arguments.pictures, editor, facts, arguments.edit_seed, resolution, device, on_progress)


def _judge(arguments: Namespace) -> Judge:
    if arguments.judge.endswith((".jsonl", ".json")):
        return GivenReplies(Path(arguments.judge))
    temperature = arguments.temperature or (EDITSCORE_TEMPERATURE if arguments.editscore else 0.0)
    sampling = Sampling(temperature, arguments.top_p, arguments.top_k) if temperature else None
    return ModelJudge(
        ModelSettings(
            arguments.judge,
            arguments.adapter,
            arguments.dtype,
            arguments.device,
            arguments.max_tokens,
            sampling,
            arguments.judge_seed,
        )
    )


def not_comparable(benchmark: Benchmark, items: Sequence[Item], prompts: Prompts, results: dict[str, Any]) -> list[str]:
    """Why the numbers may not stand beside published ones, in words; [] where nothing here speaks against it."""
    facts, told = benchmark.facts, []
    if not prompts.source:
        whose = "our own words" if prompts.is_own else f"{prompts.origin}, whose hash is no published file's"
        told.append(f"the judge was asked in {whose}")
    told.append(f"the judge is {results['judge']}; published numbers are by {facts['judge']}")
    if results["mode"] == "corrected":
        told.append("the official script reads and averages otherwise (--mode official)")
    expected = sum(facts["counts"].values())
    if len(items) != expected:
        told.append(f"{len(items)} items, where the benchmark has {expected}")
    if results["counts"]["complete"] < len(items):
        told.append(f"{len(items) - results['counts']['complete']} items are not complete")
    return told


def _question_line(question: Question) -> dict[str, Any]:
    parts = [
        {"text": part}
        if isinstance(part, str)
        else {"picture": str(part.path), "like": None if part.like is None else str(part.like), "longest": part.longest}
        for part in question.parts
    ]
    return {"item": question.item, "question": question.name, "prompt_hash": question.prompt_hash, "parts": parts}


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
