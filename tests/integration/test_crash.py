"""kill -9 and resume: the surviving trajectory is the uninterrupted one, bit for bit."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from mmig.checkpoint import read_checkpoint
from tests.integration.losses import logged
from tests.integration.workspace import Workspace

NUM_STEPS, EVERY = 100, 25


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("crash"))


@pytest.fixture(scope="module")
def whole(workspace: Workspace) -> Path:
    """A run of 100 steps that nothing interrupts."""
    config = workspace.config(max_steps=NUM_STEPS)
    result = workspace.train("whole", "--checkpoint.every_n_steps", str(EVERY), config=config)
    assert result.returncode == 0, result.stderr
    return workspace.folder / "runs" / "whole"


def same_end(left: Path, right: Path) -> bool:
    a, b = (read_checkpoint(run / "checkpoints" / f"step-{NUM_STEPS:08d}.ckpt") for run in (left, right))
    pairs = [(a["state_dict"], b["state_dict"]), (a["ema"]["weights"], b["ema"]["weights"])]
    return all(torch.equal(x[name], y[name]) for x, y in pairs for name in x)


def killed_config(workspace: Workspace, step: int, where: str) -> dict[str, Any]:
    kill = {"class_path": "tests.integration.kill.KillAtStep", "init_args": {"step": step, "where": where}}
    return workspace.config(max_steps=NUM_STEPS, callbacks=[kill])


@pytest.mark.parametrize(("name", "step", "where"), [("forward", 50, "forward"), ("save", 75, "save")])
def test_killed_run_continues_as_if_nothing_had_happened(
    workspace: Workspace, whole: Path, name: str, step: int, where: str
) -> None:
    every = ("--checkpoint.every_n_steps", str(EVERY))
    killed = workspace.train(name, *every, config=killed_config(workspace, step, where))
    assert killed.returncode == -signal.SIGKILL
    assert not (workspace.folder / "runs" / name / "finished.json").exists()
    resumed = workspace.train(name, *every, config=workspace.config(max_steps=NUM_STEPS))
    assert resumed.returncode == 0, resumed.stderr
    run = workspace.folder / "runs" / name
    assert logged(run) == logged(whole)
    assert len(logged(run)) == NUM_STEPS
    assert same_end(run, whole)


def test_finished_run_has_nothing_left_to_do(workspace: Workspace, whole: Path) -> None:
    assert json.loads((whole / "finished.json").read_text())["step"] == NUM_STEPS
    before = (whole / "checkpoints" / f"step-{NUM_STEPS:08d}.ckpt").read_bytes()
    again = workspace.train(
        "whole", "--checkpoint.every_n_steps", str(EVERY), config=workspace.config(max_steps=NUM_STEPS)
    )
    assert again.returncode == 0, again.stderr
    assert (whole / "checkpoints" / f"step-{NUM_STEPS:08d}.ckpt").read_bytes() == before
    assert (whole / "finished.json").exists()


def test_changed_setting_is_refused_by_name(workspace: Workspace, whole: Path) -> None:
    result = workspace.train(
        "whole", "--model.init_args.optimizer.lr", "0.5", config=workspace.config(max_steps=NUM_STEPS)
    )
    assert result.returncode == 1
    assert "model.init_args.optimizer.lr: 0.001 -> 0.5" in result.stderr
    assert "Traceback" not in result.stderr


def test_new_run_starts_from_the_weights_of_another(workspace: Workspace, whole: Path) -> None:
    result = workspace.train(
        "second", "--init_from", str(whole), "--model.init_args.optimizer.lr", "1e-12",
        config=workspace.config(max_steps=1),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    started = read_checkpoint(workspace.folder / "runs" / "second")
    source = read_checkpoint(whole)["ema"]["weights"]
    assert started["step"] == 1
    for name, value in source.items():
        torch.testing.assert_close(started["state_dict"][name], value, rtol=0, atol=1e-9)
