"""evaluate.py --precision: edits in bfloat16 are those of single precision but for rounding, and the results say so."""

import json
from pathlib import Path

import pytest

import evaluate
from datamodules.tinyworld.sample import make_sample
from mmig.evaluation.rows import read_rows
from mmig.run.precision import chosen_precision
from tests.mmig.evaluation.support import write_data

EDITOR = ["--config", "configs/editors/tiny.yaml", "--sampling", "num_steps=3", "--device", "cpu"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of an evaluation of two edits of the small world."""
    folder = tmp_path_factory.mktemp("data")
    data = write_data(folder, [make_sample(0, "test", index, photographs=False) for index in (0, 1)])
    return [*EDITOR, "--data", str(data), "--metrics", "l1_target", "--keep-pictures", "0"]


def distances(out: Path, given: list[str], *more: str) -> list[float]:
    evaluate.main([*given, *more, "--out", str(out)])
    return [row.values["l1_target"] for row in read_rows(out / "samples.jsonl")]


def noted(out: Path) -> str:
    return json.loads((out / "metrics.json").read_text())["precision"]


def test_edits_in_bfloat16_are_those_of_single_precision_but_for_rounding(given: list[str], tmp_path: Path) -> None:
    single = distances(tmp_path / "single", given)
    mixed = distances(tmp_path / "mixed", given, "--precision", "bf16-mixed")
    assert mixed != single
    assert mixed == pytest.approx(single, abs=0.01)
    assert (noted(tmp_path / "single"), noted(tmp_path / "mixed")) == ("32-true", "bf16-mixed")


def test_auto_is_noted_as_what_it_stands_for_here(given: list[str], tmp_path: Path) -> None:
    distances(tmp_path, given, "--precision", "auto")
    assert noted(tmp_path) == chosen_precision("cpu")
