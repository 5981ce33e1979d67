"""The setting of a row is chosen by the mean over training seeds on validation; links lead to it elsewhere."""

import json
from pathlib import Path

import pytest

from experiments.chosen import main
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
        for part in ("val", "test"):
            for point, found in zip(POINTS, values, strict=True):
                evaluate(tmp_path / run / part / point, found if part == "val" else [0, 0])
    return [tmp_path / "row-0", tmp_path / "row-1"]


def test_links_lead_to_what_is_best_of_all_seeds_on_validation(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # again the same, with the links there
        main([str(run) for run in runs])
        assert [(run / "test" / "chosen").resolve().name for run in runs] == ["strength=0.6"] * 2
    assert not (runs[0] / "val" / "chosen").exists()
    assert "joint 0.7500  strength=0.6  <- chosen" in capsys.readouterr().out


def test_a_row_that_is_not_evaluated_is_one_line(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: \S+row-0/other: expected evaluations at the points of a grid"):
        main([str(runs[0]), "--on", "other"])
    with pytest.raises(SystemExit, match=r"^error: \S+strength=0\.4: expected values of success, found none; give"):
        main([str(runs[0]), "--measure", "success"])
