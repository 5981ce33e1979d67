"""The subcommands of train.py on one run."""

from pathlib import Path

import pytest
import yaml
from PIL import Image

from mmig.run.cli import main
from tests.integration.losses import logged
from tests.integration.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("commands"), num_samples=16)
    config = workspace.config(max_steps=2, enable_progress_bar=False)
    (workspace.folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command(workspace, "fit", "run")
    return workspace


def command(workspace: Workspace, subcommand: str, name: str, *options: str) -> Path:
    folder = workspace.folder
    main(
        [subcommand, "--config", str(folder / "config.yaml"), "--name", name, "--runs", str(folder / "runs"), *options]
    )
    return folder / "runs" / name


@pytest.mark.parametrize(("subcommand", "prefix"), [("validate", "val"), ("test", "test")])
def test_every_term_is_measured_by_timestep_too(workspace: Workspace, subcommand: str, prefix: str) -> None:
    run = command(workspace, subcommand, "run")
    assert set(logged(run, f"{prefix}/loss")) == {2}  # the run's step, where a training would log
    assert logged(run, f"{prefix}/sdm")
    assert any(logged(run, f"{prefix}/sdm/{part}") for part in ("t000-249", "t250-499", "t500-749", "t750-999"))


def test_predict_writes_an_image_a_sample(workspace: Workspace) -> None:
    run = command(workspace, "predict", "run")
    written = sorted((run / "predictions").iterdir())
    assert len(written) == 8
    assert all(path.suffix == ".png" and Image.open(path).size == (64, 64) for path in written)


def test_fast_dev_run_leaves_nothing(workspace: Workspace) -> None:
    assert not command(workspace, "fit", "fast", "--trainer.fast_dev_run", "true").exists()


def test_a_run_that_does_not_exist_is_named(workspace: Workspace) -> None:
    with pytest.raises(SystemExit, match=r"error: no checkpoint at .*nothing"):
        command(workspace, "validate", "nothing")


def test_a_log_file_gets_lines_and_no_bar(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    command(workspace, "fit", "lines", "--trainer.enable_progress_bar", "true")
    shown = capsys.readouterr()
    assert "step 2 of 2  train/loss" in shown.out
    assert "Epoch" not in shown.out + shown.err
