"""Several systems in one command: each has the folder of an evaluation alone, and a page compares them."""

import json
from pathlib import Path

import pytest
import yaml

import evaluate
from tests.mmig.evaluation.stopping import check_equal, finish
from tests.mmig.evaluation.support import random_samples, write_data

METRICS = ["--metrics", "l1_target", "l1_input", "--device", "cpu"]


@pytest.fixture
def editors(tmp_path: Path) -> list[str]:
    """Configurations of a copy with noise and of the source as it is."""
    classes = {"noisy": "tests.mmig.evaluation.support.NoisyCopy", "same": "mmig.evaluation.editors.Identity"}
    for name, class_path in classes.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"editor": {"class_path": class_path}}))
    return [str(tmp_path / f"{name}.yaml") for name in classes]


@pytest.mark.parametrize("ranks", [1, 2])
def test_each_is_what_it_is_alone_on_any_number_of_ranks(editors: list[str], ranks: int, tmp_path: Path) -> None:
    data = ["--data", str(write_data(tmp_path / "data", random_samples(7))), *METRICS]
    finish(tmp_path / "all", ["--config", *editors, *data], ranks)
    for name, config in zip(("noisy", "same"), editors, strict=True):
        finish(tmp_path / "alone" / name, ["--config", config, *data])
        check_equal(tmp_path / "all" / name, tmp_path / "alone" / name, exact=ranks == 1)
    page = (tmp_path / "all/report.html").read_text()
    assert "noisy" in page and "same" in page and "Paired differences to noisy" in page
    (part,) = json.loads((tmp_path / "all/overview.json").read_text())["parts"]
    assert [(entry["system"], entry["folder"]) for entry in part["evaluations"]] == [
        ("noisy", "noisy"),
        ("same", "same"),
    ]
    assert part["evaluations"][1]["values"]["l1_input"]["value"] == 0


def test_a_comparison_with_an_earlier_one_is_of_one(editors: list[str], tmp_path: Path) -> None:
    data = ["--data", str(write_data(tmp_path / "data", random_samples(2))), "--compare", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"--compare: several evaluations are asked for; give `evaluate.py compare`"):
        evaluate.main(["--config", *editors, *data, "--out", str(tmp_path / "out")])


def test_a_setting_that_one_of_them_does_not_have_is_refused(editors: list[str], tmp_path: Path) -> None:
    data = ["--data", str(write_data(tmp_path / "data", random_samples(2))), *METRICS, "--grid", "factor=0.5,1"]
    with pytest.raises(SystemExit, match=r"--sampling factor=0\.5: Identity has nothing to set; leave it out"):
        evaluate.main(["--config", *editors, *data, "--out", str(tmp_path / "out")])
