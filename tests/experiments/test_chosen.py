"""The point of a grid at which a row is best, by the mean over its training seeds."""

import json
from pathlib import Path

import pytest

from experiments.chosen import best_point
from mmig.evaluation.rows import SampleRow

POINTS = ("strength=0.4", "strength=0.6", "strength=0.8")


def evaluate(folder: Path, values: list[float]) -> None:
    """What an evaluation leaves of a measure."""
    folder.mkdir(parents=True)
    rows = [SampleRow(f"k{number}", 0, "", {"joint": value}) for number, value in enumerate(values)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row.to_dict()) + "\n" for row in rows))
    (folder / "metrics.json").write_text("{}")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds; the second point is best of both together, of each alone another one is."""
    for run, values in (("row-0", [[1, 1], [1, 0], [0, 0]]), ("row-1", [[0, 0], [1, 1], [1, 1]])):
        for point, found in zip(POINTS, values, strict=True):
            evaluate(tmp_path / run / "val" / point, found)
    return [tmp_path / "row-0", tmp_path / "row-1"]


def test_the_best_point_is_that_of_all_seeds_together(runs: list[Path]) -> None:
    assert best_point(runs, "val", "joint") == "strength=0.6"
    assert best_point(runs[1:], "val", "joint") == "strength=0.6", "of equal ones the first"
    assert best_point(runs[:1], "val", "joint") == "strength=0.4"


def test_what_is_not_evaluated_is_named(runs: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"^\S+row-0/other: expected evaluations at the points of a grid"):
        best_point(runs, "other", "joint")
    with pytest.raises(ValueError, match=r"^\S+strength=0\.4: expected values of success, found none"):
        best_point(runs, "val", "success")
