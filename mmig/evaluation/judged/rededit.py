"""REDEdit-Bench (FireRed, 2026): 15 tasks in Chinese and English, scored as ImgEdit's basic suite."""

from functools import partial
from pathlib import Path

from mmig.evaluation.judged import imgedit
from mmig.evaluation.judged.benchmark import Benchmark
from mmig.evaluation.judged.items import Item, Question, Shown, existing, only_file, read_lines, texts_of, unique
from mmig.evaluation.judged.prompts import Prompts
from mmig.evaluation.judged.replies import Reading, score_lines

_FILES = ("redbench.jsonl",)
_INSTRUCTIONS = {"cn": "a_to_b_instructions", "en": "a_to_b_instructions_eng"}


def read_items(folder: Path, pictures: Path, language: str, unpacked: Path) -> list[Item]:
    """Items of one language from redbench.jsonl.

    Args:
        folder: with that file, and the source pictures below it or beside it, as `source` says.
        pictures: `TASK/TASK-ID.png` as the evaluator wants them; `TASK/` with the source's name as the official
            inference script writes them, or `TASK/ID.png` as the README says; or what evaluate.py has kept.
        language: "cn", which its scripts take unless told otherwise, or "en".
        unpacked: not needed.

    Raises:
        JudgedError: no such file, or an item lacks a field.
    """
    file, items = only_file(folder, _FILES), []
    for row in read_lines(file):
        fields = ("task", "id", "source", _INSTRUCTIONS[language])
        task, number, source, instruction = texts_of(row, fields, f"{file}, item {row.get('id')}")
        found = next((path for path in (file.parent / source, file.parent.parent / source) if path.is_file()), None)
        names = [f"{task}/{task}-{number}.png", f"{task}/{Path(source).name}", f"{task}/{number}.png"]
        key = f"{task}/{number}"
        items.append(Item(key, task, instruction, (found or file.parent / source,), existing(pictures, key, names)))
    return unique(items, file)


def questions(item: Item, prompts: Prompts) -> list[Question]:
    """One question behind both pictures, in the words for the item's task."""
    said = prompts.text(item.kind).replace("<edit_prompt>", item.instruction)
    source, edited = Shown(item.sources[0]), Shown(item.edited)
    parts = (source, "Picture A, the original.", edited, "Picture B, the edited one.", said)
    return [Question(item.key, imgedit.QUESTION, parts)]


def _read(item: Item, name: str, reply: str) -> Reading:
    return score_lines(reply, imgedit.NUM_SCORES, imgedit.LOW, imgedit.HIGH)


def benchmark() -> Benchmark:
    """REDEdit-Bench."""
    return Benchmark(
        name="rededit",
        languages=("cn", "en"),
        items=read_items,
        questions=questions,
        read=_read,
        extremes=partial(imgedit.extremes, imgedit.NUM_SCORES),
        measures=imgedit.MEASURES,
        official=partial(imgedit.official, missing="missing_leaves_the_mean", strips=True),
        headline="macro",
    )
