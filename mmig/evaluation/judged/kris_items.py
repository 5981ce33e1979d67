"""Items of KRIS-Bench, and what is asked about each: by category other pictures stand beside the edited one."""

import re
from pathlib import Path
from typing import Any

from mmig.evaluation.judged.items import Item, JudgedError, Question, Shown, existing, read_json, texts_of, unique
from mmig.evaluation.judged.prompts import Prompts, filled

DIMENSIONS = {
    "Attribute Perception": (
        "count_change", "color_change", "size_adjustment", "part_completion", "anomaly_correction",
    ),
    "Spatial Perception": ("viewpoint_change", "position_movement"),
    "Temporal Prediction": ("temporal_prediction",),
    "Social Science": ("humanities", "practical_knowledge"),
    "Natural Science": ("biology", "chemistry", "geography", "medicine", "mathematics", "physics"),
    "Logical Reasoning": ("abstract_reasoning", "rule-based_reasoning"),
    "Instruction Decomposition": ("multi-element_composition", "multi-instruction_execution"),
}  # fmt: skip
"""Categories of each dimension: mercurystraw/Kris_Bench, and BAGEL's eval/gen/kris/summarize.py."""
GROUPS = {
    "Factual Knowledge": ("Attribute Perception", "Spatial Perception", "Temporal Prediction"),
    "Conceptual Knowledge": ("Social Science", "Natural Science"),
    "Procedural Knowledge": ("Logical Reasoning", "Instruction Decomposition"),
}
WITH_KNOWLEDGE = ("Social Science", "Natural Science", "Logical Reasoning")
VIEWPOINT, TEMPORAL, COMPOSITION = "viewpoint_change", "temporal_prediction", "multi-element_composition"
_SPECIAL = {
    VIEWPOINT: {"instruction": "prompt_view_instruction_following"},
    TEMPORAL: {"consistency": "prompt_consist_temporal", "instruction": "prompt_instruction_temporal"},
    COMPOSITION: {"consistency": "prompt_consist_multi", "instruction": "prompt_instruction_multi"},
}
_USUAL = {
    "consistency": "prompt_consist",
    "instruction": "prompt_instruction_following",
    "dual": "prompt_dual_evaluation",
    "quality": "prompt_quality",
}


def read_items(folder: Path, pictures: Path, language: str, unpacked: Path) -> list[Item]:
    """Items of all categories that the folder has.

    Args:
        folder: KRIS_Bench, with `CATEGORY/annotation.json` and the pictures beside it.
        pictures: `CATEGORY/ID.png` as BAGEL's copy has them or `.jpg` as the original, or what evaluate.py has kept.
        language: English alone.
        unpacked: not needed.

    Raises:
        JudgedError: no category is there, or an item lacks a field.
    """
    items = []
    for group, dimensions in GROUPS.items():
        for dimension in dimensions:
            for category in DIMENSIONS[dimension]:
                file = folder / category / "annotation.json"
                if file.is_file():
                    for number, row in read_json(file).items():
                        levels = {"category": category, "group": group}
                        items.append(_item(file, str(number), row, dimension, levels, pictures))
    if not items:
        raise JudgedError(f"--items {folder}: expected CATEGORY/annotation.json there, such as biology/annotation.json")
    return unique(items, folder)


def _item(file: Path, number: str, row: dict[str, Any], dimension: str, levels: dict[str, str], pictures: Path) -> Item:
    texts_of(row, ("ori_img", "ins_en"), f"{file}, {number}")
    names = row["ori_img"] if isinstance(row["ori_img"], list) else [row["ori_img"]]
    key = f"{levels['category']}/{number}"
    goal = row.get("gt_img") or ""
    return Item(
        key,
        dimension,
        str(row["ins_en"]),
        tuple(file.parent / name for name in names),
        existing(pictures, key, [f"{key}.png", f"{key}.jpg"]),
        levels,
        {"explanation": row.get("explain_en") or "", "goal": str(file.parent / goal) if goal else ""},
    )


def questions(item: Item, prompts: Prompts) -> list[Question]:
    """Three questions an item; the instruction is that of the annotation, which the original scripts leave empty.

    The words between the pictures are ours. That an anomaly's explanation is not shown is as in all published numbers.
    """
    category = item.groups["category"]
    asked = ("consistency", "dual" if item.kind in WITH_KNOWLEDGE else "instruction", "quality")
    found = []
    for name in asked:
        constant = _SPECIAL.get(category, {}).get(name, _USUAL[name])
        text = prompts.text(name, (constant,))
        if name == "quality":
            parts: tuple[str | Shown, ...] = ("The edited picture:", Shown(item.edited))
        else:
            values = {"instruct": item.instruction, "explanation": item.about["explanation"]}
            frame, pictured = _pictures(item, category, name)
            text, parts = filled(text, prompts.origin, N=str(frame), **values), tuple(pictured)
        found.append(Question(item.key, name, (text, *parts)))
    return found


def _pictures(item: Item, category: str, name: str) -> tuple[int, list[str | Shown]]:
    """Number of the predicted frame, 0 elsewhere; and the pictures, each behind what it is."""
    if category == TEMPORAL:
        numbers = [int(match[1]) if (match := re.search(r"-(\d+)\.", path.name)) else 0 for path in item.sources]
        rest = sorted({1, 2, 3, 4} - set(numbers))
        predicted = rest[0] if len(rest) == 1 else max(numbers) + 1
        frames = [(number, "given", path) for number, path in zip(numbers, item.sources, strict=True)]
        told = sorted([*frames, (predicted, "predicted", item.edited)])
        return predicted, [part for number, what, path in told for part in (f"Frame {number}, {what}:", Shown(path))]
    if category == COMPOSITION:
        named = [(f"Source picture {number}:", path) for number, path in enumerate(item.sources, 1)]
    else:
        named = [("The original picture:", path) for path in item.sources]
    named.append(("The edited picture:", item.edited))
    if category == VIEWPOINT and name == "instruction" and item.about["goal"]:
        named.append(("The right answer:", Path(item.about["goal"])))
    return 0, [part for what, path in named for part in (what, Shown(path))]
