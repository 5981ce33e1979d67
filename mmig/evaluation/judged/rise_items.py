"""Items of RISEBench, and what is asked about each: which pictures and words depends on what its row has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from mmig.evaluation.judged.prompts import Prompts, filled

TEMPORAL, CAUSAL, SPATIAL, LOGICAL = (f"{name}_reasoning" for name in ("temporal", "causal", "spatial", "logical"))
LONGEST = 768
"""Pixels of the longer side of what the judge is shown."""
_FILES = ("datav2_total_w_subtask.json", "data_total.json")
_OPTIONAL = ("reference", "reference_txt", "reference_img", "reasoning_img", "consistency_free", "reasoning_wo_ins")


def read_items(folder: Path, pictures: Path, language: str, unpacked: Path) -> list[Item]:
    """Items of the full benchmark of 360, or of the sample of 64.

    Args:
        folder: with datav2_total_w_subtask.json or data_total.json, and the pictures that it names.
        pictures: `images/CATEGORY/INDEX.png`, `.jpg` or `.jpeg`, or what evaluate.py has kept.
        language: English alone.
        unpacked: not needed.

    Raises:
        JudgedError: no such file, or an item lacks a field.
    """
    file = only_file(folder, _FILES)
    rows = read_json(file)
    if not isinstance(rows, list):
        raise JudgedError(f"{file}: expected a JSON list of items, found {type(rows).__name__}")
    leaves_instruction_out = any(row.get("reasoning_wo_ins") is not None for row in rows)
    items = []
    for row in rows:
        fields = ("index", "category", "instruction", "image")
        index, category, instruction, image = texts_of(row, fields, f"{file}, item {row.get('index')}")
        if category not in (TEMPORAL, CAUSAL, SPATIAL, LOGICAL):
            raise JudgedError(f"{file}, item {index}: unknown category {category!r}")
        names = [f"images/{category}/{index}.{suffix}" for suffix in ("png", "jpg", "jpeg")]
        about: dict[str, Any] = {name: row[name] for name in _OPTIONAL if row.get(name) is not None}
        if "reference_img" in about:
            about["reference_img"] = str(file.parent / about["reference_img"])
        about["leaves_instruction_out"] = leaves_instruction_out
        groups = {"subtask": str(row["subtask"])} if row.get("subtask") else {}
        edited = existing(pictures, index, names)
        items.append(Item(index, category, instruction, (file.parent / image,), edited, groups, about))
    return unique(items, file)


def is_free(item: Item) -> bool:
    """Whether an item has no consistency score."""
    return "consistency_free" in item.about


def needed(item: Item) -> tuple[str, ...]:
    """Questions that an item is asked."""
    return (
        *(() if is_free(item) else ("consistency",)),
        "reasoning",
        *(() if item.kind == LOGICAL else ("plausibility",)),
    )


def questions(item: Item, prompts: Prompts) -> list[Question]:
    """Consistency of two pictures, reasoning of one or two, plausibility of the edited one."""
    first, reasoning_sees_both, words = _plan(item)
    edited = Shown(item.edited, longest=LONGEST)
    both = (Shown(first, longest=LONGEST), edited)
    shown = {"consistency": both, "reasoning": both if reasoning_sees_both else (edited,), "plausibility": (edited,)}
    found = []
    for name in needed(item):
        constant, reference = words[name]
        text = prompts.text(name, (constant,))
        if constant not in _AS_THEY_ARE or prompts.is_own:
            text = filled(text, prompts.origin, instruct=item.instruction, reference=reference)
        found.append(Question(item.key, name, (text, *shown[name])))
    return found


_AS_THEY_ARE = ("prompt_generation", "prompt_spatial_qual", "prompt_logical_img_wo_q")
"""Texts without placeholders, which the official script does not fill in."""
_Words = Mapping[str, tuple[str, str]]
"""By question the name of its text, and the reference that stands there."""


def _plan(item: Item) -> tuple[Path, bool, _Words]:
    """The picture beside the edited one, whether reasoning sees it too, and the words; as gpt_eval.py chooses them."""
    about, source = item.about, item.sources[0]
    reference, sees_source = str(about.get("reference", "")), "reasoning_img" in about
    if item.kind == LOGICAL:
        if "reference_txt" in about:
            told = str(about["reference_txt"])
            words = {"consistency": ("prompt_logical_cons_ans", told), "reasoning": ("prompt_logical_txt", told)}
            return source, False, words
        if "reference_img" not in about:
            raise JudgedError(f"item {item.key}: expected reference_txt or reference_img, found neither")
        name = "prompt_logical_img_wo_q" if about["leaves_instruction_out"] else "prompt_logical_img"
        return Path(about["reference_img"]), True, {"consistency": ("prompt_logical_cons", ""), "reasoning": (name, "")}
    if item.kind == SPATIAL:
        words = {"consistency": ("prompt_spatial_cons", ""), "plausibility": ("prompt_spatial_qual", "")}
        if "reference_img" in about:
            return Path(about["reference_img"]), True, {**words, "reasoning": ("prompt_spatial_ref_img", "")}
        name = "prompt_spatial_ref_w_input" if sees_source else "prompt_spatial_ref"
        return source, sees_source, {**words, "reasoning": (name, reference)}
    name = "prompt_reasoning_w_input" if sees_source else "prompt_reasoning"
    words = {"consistency": ("prompt_consist", ""), "plausibility": ("prompt_generation", "")}
    return source, sees_source, {**words, "reasoning": (name, reference)}
