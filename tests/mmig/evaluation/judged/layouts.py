"""Small items and edited pictures of every judged benchmark in its published layout, made on the spot."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmig.evaluation.judged.kris_items import DIMENSIONS

LAYOUTS = ("gedit", "imgedit", "imgedit_uge", "kris", "risebench", "rededit")


def picture(path: Path, shade: int, size: tuple[int, int] = (40, 32)) -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade % 256, 90, 200 - shade % 200)).save(path)
    return path


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write(name: str, folder: Path) -> tuple[Path, Path]:
    """Items and edited pictures of a benchmark; the folder for --items and that for --pictures."""
    return globals()[f"_{name}"](folder / "items", folder / "edited")


def _gedit(items: Path, edited: Path) -> tuple[Path, Path]:
    rows = []
    for number, (kind, language) in enumerate(
        [("color_alter", "en"), ("color_alter", "cn"), ("ps_human", "en"), ("ps_human", "en")]
    ):
        own = picture(items / f"{number}.png", 10 * number)
        rows.append(
            {
                "task_type": kind,
                "key": f"k{number}",
                "instruction": f"make it {number}",
                "instruction_language": language,
                "input_image": {"bytes": own.read_bytes(), "path": own.name},
                "Intersection_exist": number != 3,
            }
        )
        place = edited / "fullset" / kind / language
        picture(place / f"k{number}.png", 70 + number, (64, 64))
        if number:
            picture(place / f"k{number}_SRCIMG.png", 10 * number)
    (items / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), items / "data/train-0.parquet")
    return items, edited


def _imgedit(items: Path, edited: Path) -> tuple[Path, Path]:
    kinds = ("add", "add", "style", "extract")
    rows = {
        str(100 + number): {"id": f"animal/{number}.jpg", "prompt": f"edit {number}", "edit_type": kind}
        for number, kind in enumerate(kinds)
    }
    return _pictured(items, edited, rows, "basic_edit.json")


def _imgedit_uge(items: Path, edited: Path) -> tuple[Path, Path]:
    rows = {str(number): {"id": f"{number}.jpg", "prompt": f"edit {number}"} for number in range(1, 5)}
    return _pictured(items, edited, rows, "UGE_edit.json")


def _pictured(items: Path, edited: Path, rows: dict[str, Any], name: str) -> tuple[Path, Path]:
    for number, (key, row) in enumerate(rows.items()):
        picture(items / row["id"], number)
        picture(edited / f"{key}.png", 60 + number)
    write_json(items / name, rows)
    return items, edited


def _kris(items: Path, edited: Path) -> tuple[Path, Path]:
    for categories in DIMENSIONS.values():
        category = categories[0]
        names: str | Sequence[str] = "1.jpg"
        if category in ("temporal_prediction", "multi-element_composition"):
            names = ["1-1.jpg", "1-2.jpg", "1-4.jpg"]
        for name in [names] if isinstance(names, str) else names:
            picture(items / category / name, 30)
        if category == "viewpoint_change":
            picture(items / category / "1_gt.jpg", 31)
        row = {"ori_img": names, "gt_img": "1_gt.jpg", "ins_en": f"change {category}", "explain_en": "because"}
        write_json(items / category / "annotation.json", {"1": row})
        picture(edited / category / "1.png", 80)
    return items, edited


def _risebench(items: Path, edited: Path) -> tuple[Path, Path]:
    more: dict[str, dict[str, Any]] = {
        "temporal_reasoning": {"reference": "old", "subtask": "Life Progression"},
        "causal_reasoning": {"reference": "broken", "reasoning_img": True, "subtask": "State Transition"},
        "spatial_reasoning": {"reference": "left", "consistency_free": True, "subtask": "Layout Reasoning"},
        "logical_reasoning": {"reference_img": "logical_reasoning_images/1_ref.png", "subtask": "Puzzle Solving"},
    }
    rows = []
    for number, (category, fields) in enumerate(more.items()):
        image = f"{category}_images/1.png"
        picture(items / image, number, (1000, 500))
        picture(edited / "images" / category / f"{category}_1.png", 90 + number, (1000, 500))
        row = {"index": f"{category}_1", "category": category, "instruction": f"show {category}", "image": image}
        rows.append({**row, **fields})
    picture(items / "logical_reasoning_images/1_ref.png", 7)
    write_json(items / "datav2_total_w_subtask.json", rows)
    return items, edited


def _rededit(items: Path, edited: Path) -> tuple[Path, Path]:
    lines = []
    for number, task in enumerate(("add", "add", "text", "lowlevel"), 1):
        source = f"redbench/{task}/{task}-{number}.png"
        picture(items / source, number)
        picture(edited / task / f"{task}-{number}.png", 60 + number)
        row = {"id": str(number), "source": source, "task": task}
        lines.append(json.dumps({**row, "a_to_b_instructions": "改", "a_to_b_instructions_eng": f"edit {number}"}))
    (items / "redbench.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return items, edited
