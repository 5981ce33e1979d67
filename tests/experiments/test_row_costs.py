"""What a row of a comparison costs is measured by its own configuration."""

from pathlib import Path

import pytest
import torch
import yaml

from experiments.row_costs import main, samples, settings_of
from mmig.run.precision import chosen_precision
from tests.experiments.test_comparison import BASE


@pytest.fixture
def row(tmp_path: Path) -> Path:
    (tmp_path / "small").mkdir()
    base = yaml.safe_load(BASE)
    base["data"]["init_args"]["root"] = str(tmp_path / "world")
    (tmp_path / "small" / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    (tmp_path / "small" / "protocol.yaml").write_text("title: small", encoding="utf-8")
    path = tmp_path / "small" / "response.yaml"
    path.write_text("model: {init_args: {text: response}}", encoding="utf-8")
    return path


def test_the_configuration_is_that_of_the_rows_training(row: Path) -> None:
    settings = settings_of(row)
    assert settings["model"]["init_args"]["text"] == "response"
    assert settings["trainer"]["max_steps"] == 2 and settings["data"]["init_args"]["seed"] == 0


def test_samples_have_every_field(row: Path) -> None:
    batch = samples(3)
    assert all(batch[f"has_{name}"].all() for name in ("source", "target", "target_mask", "response"))
    assert batch["position"].tolist() == [0, 1, 2]


def test_it_prints_a_line_a_row_and_writes_no_data(row: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    main([str(row.parent), "--steps", "1"])
    torch.set_num_threads(threads)
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if "response" in line)
    assert chosen_precision("auto") in shown
    step, edit = (float(cell) for cell in line.replace("│", " ").split()[-2:])
    assert step > 0 and edit > 0 and not (row.parent.parent / "world").exists()


def test_a_row_that_trains_nothing_is_one_line(row: Path) -> None:
    row.write_text("editor: {class_path: mmig.evaluation.editors.Identity}", encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        main([str(row.parent), "--steps", "1"])
    assert "response.yaml: an editor, which has no training of its own" in str(caught.value)
