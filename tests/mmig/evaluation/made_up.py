"""Finished evaluations made up from rows, with pictures, as evaluate.py leaves them on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mmig.base.files import write_json, write_json_lines
from mmig.evaluation.finished import Finished
from mmig.evaluation.places import picture_name
from mmig.evaluation.rows import SampleRow
from mmig.evaluation.summary import summarise

LOWER = ("l1_target",)


def rows(count: int = 12, shift: int = 0, **more: float) -> list[SampleRow]:
    """Rows whose success and preservation go through all four cases; `shift` makes another system of the same data."""
    made = []
    for number in range(count):
        case = (number + shift) % 5
        success, preservation = float(case in (0, 1, 2)), float(case in (0, 1, 3))
        values = {
            "joint": success * preservation,
            "success": success,
            "preservation": preservation,
            "l1_target": 0.1 + 0.05 * case + 0.001 * number,
            "clip_directional_similarity": 0.5 * success + 0.01 * number,
            **more,
        }
        kind = ("add", "move")[number % 2]
        made.append(SampleRow(f"s{number:02}", 0, kind, values, instruction=f"do {number}", text=f"text {number}"))
    return made


def report(of_rows: Sequence[SampleRow], **more: Any) -> dict[str, Any]:
    """What metrics.json would hold of it."""
    metrics = {
        name: {**value, "higher_is_better": name not in LOWER} for name, value in summarise(of_rows, 200).items()
    }
    return {
        "data": {"class_path": "some.Data", "init_args": {"resolution": 64, "num_workers": 0}},
        "split": "test",
        "command": "python evaluate.py --config some.yaml --out somewhere",
        "num_samples": len({row.key for row in of_rows}),
        "seeds": [0],
        "response_source": "none",
        "clip": None,
        "judge": "some.Judge",
        "truncated_texts": {},
        "metrics": metrics,
        **more,
    }


def finished(folder: Path, of_rows: Sequence[SampleRow], pictures: bool = True, **more: Any) -> Finished:
    """An evaluation on disk; each picture is one colour, so that they can be told apart."""
    made = report(of_rows, **more)
    write_json_lines(folder / "samples.jsonl", [row.to_dict() for row in of_rows])
    write_json(folder / "metrics.json", made)
    if pictures:
        (folder / "pictures" / "source").mkdir(parents=True)
        for number, row in enumerate(of_rows):
            image = Image.new("RGB", (16, 16), (number, 100, 200))
            image.save(folder / "pictures" / picture_name(row.key, row.seed))
            image.save(folder / "pictures" / "source" / picture_name(row.key))
        write_json(folder / "pictures" / "kept.json", {})
    return Finished(folder.name, folder, made, list(of_rows))
