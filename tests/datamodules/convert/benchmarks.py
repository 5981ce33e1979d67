"""A few samples of benchmarks in the layouts in which these are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.datamodules.convert.layouts import picture, write_parquet


def evr_entry(number: int, requests: int) -> dict[str, Any]:
    """A pair with so many requests."""
    names = {"img0": f"Reddit.com_{number}_a.jpg", "img1": f"Reddit.com_{number}_b.png"}
    return {**names, "sents": [f"request {k} of {number}" for k in range(requests)], "uid": f"Reddit_{number}"}


def evr_files(at: str = "dataset/adobe/", images: str = "images/") -> dict[str, Any]:
    """Three pairs with a request to train on, two with three to validate and test on each."""
    parts = {"train": range(3), "valid": range(3, 5), "test": range(5, 7)}
    entries = {name: [evr_entry(n, 1 if name == "train" else 3) for n in part] for name, part in parts.items()}
    files: dict[str, Any] = {f"{at}{name}.json": part for name, part in entries.items()}
    for entry in (entry for part in entries.values() for entry in part):
        files[images + entry["img0"]] = picture(1)
        files[images + entry["img1"]] = picture(2, form="PNG")
    return files


def gier_entry(number: int, **more: Any) -> dict[str, Any]:
    """A pair."""
    return {
        "input": f"{number}_{number}.jpg",
        "output": f"{number}_x.jpg",
        "request": f"could someone edit {number}?",
        "detailed_request": float("nan"),
        "dataset": "reddit",
        "operator": {"brightness": {"local": False, "ids": []}},
        "expert_summary": [f"expert {number}", f"expert again {number}"],
        "amateur_summary": [f"amateur {number}"],
        **more,
    }


def _region(top: int, rows: int) -> dict[str, Any]:
    """A region of a picture of 16x16 pixels: `rows` whole rows from `top` on, as runs down each column."""
    runs = [top] + [length for _ in range(15) for length in (rows, 16 - rows)] + [rows, 16 - rows - top]
    return {"size": [16, 16], "counts": runs}


def gier_files() -> dict[str, Any]:
    """Five pairs with three requests each, two of them with masks."""
    local = {"tint": {"local": True, "ids": [0, 2]}, "hue": {"local": False, "ids": [1]}}
    lost = {"tint": {"local": True, "ids": [5]}}
    entries = {
        "train": [gier_entry(0, operator=local), gier_entry(1), gier_entry(2, operator=lost)],
        "val": [gier_entry(3)],
        "test": [gier_entry(4)],
    }
    files: dict[str, Any] = {f"splits/{split}_sess_3.json": part for split, part in entries.items()}
    files["splits/train_global_sess_3.json"] = [1]
    files["splits/train_shapeAlign_sess_3.json"] = [0, 1]
    for number in range(5):
        files[f"images/{number}_{number}.jpg"] = picture(number)
        files[f"images/{number}_x.jpg"] = picture(10 + number)
    files["masks/0_0_mask.json"] = [_region(1, 2), _region(4, 4), _region(10, 3)]
    files["masks/2_2_mask.json"] = [_region(1, 2)]
    return files


def ma5k_files() -> dict[str, Any]:
    """Four edits by experts."""

    def entry(number: int, expert: str) -> dict[str, Any]:
        return {"input": f"{number:04d}_O.jpg", "output": f"{number:04d}_{expert}.jpg", "request": f"edit {expert}"}

    parts = {"train": [entry(1, "A"), entry(1, "B")], "val": [entry(2, "C")], "test": [entry(3, "E")]}
    files: dict[str, Any] = {f"annotations/{split}_sess_1.json": part for split, part in parts.items()}
    for name in (entry[side] for part in parts.values() for entry in part for side in ("input", "output")):
        files[f"images/{name}"] = picture(len(name))
    return files


def emu_edit_table(rows: int, split: str, answers: bool) -> dict[str, list[Any]]:
    """Columns of the benchmark, with somebody's answers or without."""
    table: dict[str, list[Any]] = {
        "instruction": [f"{split} {n}" for n in range(rows)],
        "image": [picture(n) for n in range(rows)],
        "task": ["add"] * rows,
        "split": [split] * rows,
        "idx": list(range(rows)),
        "hash": [f"{n:08x}" for n in range(rows)],
        "input_caption": [f"before {n}" for n in range(rows)],
        "output_caption": [f"after {n}" for n in range(rows)],
    }
    return table | ({"edited_image": [picture(100 + n) for n in range(rows)]} if answers else {})


def emu_edit_source(root: Path, answers: bool) -> str:
    """Three rows of the benchmark's test set, one of its validation set; the set with the answers swaps the names."""
    named = {"validation": "test", "test": "validation"} if answers else {"validation": "validation", "test": "test"}
    for name, true in named.items():
        table = emu_edit_table(3 if true == "test" else 1, true, answers)
        write_parquet(root / "data" / f"{name}-00000-of-00001.parquet", table)
    return str(root)
