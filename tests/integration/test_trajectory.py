"""The trajectory of stage 1 is the same on one rank and on two, and its settings may be older than the code."""

from pathlib import Path

import pytest
import torch
import yaml

from mmig.checkpoints.checkpoint import read_checkpoint
from tests.integration.losses import logged
from tests.integration.workspace import Workspace

NUM_STEPS = 8


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("trajectory"))


@pytest.fixture(scope="module")
def one_rank(workspace: Workspace) -> Path:
    result = workspace.train("one", config=workspace.config(max_steps=NUM_STEPS))
    assert result.returncode == 0, result.stderr
    return workspace.folder / "runs" / "one"


def test_two_ranks_take_the_steps_of_one(workspace: Workspace, one_rank: Path) -> None:
    result = workspace.train(
        "two", "--trainer.devices", "2", "--trainer.strategy", "ddp", config=workspace.config(max_steps=NUM_STEPS)
    )
    assert result.returncode == 0, result.stderr
    run = workspace.folder / "runs" / "two"
    assert list(logged(run).values()) == pytest.approx(list(logged(one_rank).values()), rel=1e-5)
    for name, value in read_checkpoint(one_rank)["state_dict"].items():
        torch.testing.assert_close(read_checkpoint(run)["state_dict"][name], value, rtol=1e-4, atol=1e-5)


def test_a_run_samples_before_its_first_step_and_not_again_and_nothing_else_changes(
    workspace: Workspace, one_rank: Path
) -> None:
    evaluate = {
        "class_path": "mmig.callbacks.evaluate.Evaluate",
        "init_args": {"every_n_steps": 2, "num_samples": 2, "scoring": {"metrics": ["l1_input"]}},
    }
    for name, steps in (("sampled", 4), ("resumed", 2), ("resumed", 4)):
        result = workspace.train(name, config=workspace.config(max_steps=steps, callbacks=[evaluate]))
        assert result.returncode == 0, result.stderr
    sampled, resumed = (workspace.folder / "runs" / name for name in ("sampled", "resumed"))
    assert sorted(logged(sampled, "eval/l1_input")) == [0, 2, 4]
    assert logged(resumed, "eval/l1_input") == logged(sampled, "eval/l1_input")
    first = {step: loss for step, loss in logged(one_rank).items() if step < 4}  # of a run that evaluates nothing
    assert logged(resumed) == logged(sampled) == first
    states = [read_checkpoint(run)["state_dict"] for run in (resumed, sampled)]
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())


def test_a_setting_that_is_newer_than_the_run_has_its_default(workspace: Workspace, one_rank: Path) -> None:
    file = one_rank / "config.yaml"
    settings = yaml.safe_load(file.read_text())
    del settings["model"]["init_args"]["seed"], settings["model"]["init_args"]["optimizer"]["kind"]
    file.write_text(yaml.safe_dump(settings))
    assert workspace.train("one", config=workspace.config(max_steps=NUM_STEPS)).returncode == 0
    file.write_text(yaml.safe_dump(settings))
    other = workspace.train("one", "--model.init_args.seed", "1", config=workspace.config(max_steps=NUM_STEPS))
    assert "model.init_args.seed: 0 -> 1" in other.stderr
