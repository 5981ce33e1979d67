"""A run that is sharded over two ranks, then goes on on one, then on two with DDP, is the run on one rank."""

from pathlib import Path

import pytest
import torch

from mmig.checkpoints.checkpoint import load_module, read_checkpoint
from tests.integration.losses import logged
from tests.integration.workspace import Workspace

SHARDED = ("--trainer.strategy", "fsdp2", "--trainer.devices", "2")
DDP = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
EVALUATE = {
    "class_path": "mmig.callbacks.evaluate.Evaluate",
    "init_args": {"every_n_steps": 2, "num_samples": 3, "scoring": {"metrics": ["l1_input"]}},
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("sharded"))


def train(workspace: Workspace, name: str, max_steps: int, *options: str, command: str = "fit") -> Path:
    config = workspace.config(max_steps=max_steps, val_check_interval=2, callbacks=[EVALUATE])
    config["model"]["init_args"]["micro_batch_size"] = 1
    result = workspace.train(name, *options, config=config, command=command)
    assert result.returncode == 0, result.stderr
    return workspace.folder / "runs" / name


@pytest.fixture(scope="module")
def whole(workspace: Workspace) -> Path:
    return train(workspace, "whole", 6)


@pytest.fixture(scope="module")
def moved(workspace: Workspace) -> Path:
    train(workspace, "moved", 2, *SHARDED)
    train(workspace, "moved", 4)
    return train(workspace, "moved", 6, *DDP, "--checkpoint.keep", "3")


@pytest.mark.parametrize("tag", ["train/loss", "val/loss", "eval/l1_input"])
def test_what_is_measured_does_not_depend_on_the_ranks(whole: Path, moved: Path, tag: str) -> None:
    expected = logged(whole, tag)
    assert len(expected) == {"train/loss": 6, "val/loss": 3, "eval/l1_input": 4}[tag]  # evaluated before the first step
    assert logged(moved, tag) == pytest.approx(expected, rel=1e-5)


def test_weights_average_and_moments_are_those_of_one_rank(whole: Path, moved: Path) -> None:
    one, other = read_checkpoint(whole), read_checkpoint(moved)
    assert one["step"] == other["step"] == 6
    stored = [checkpoint["state_dict"] for checkpoint in (one, other)]
    averages = [checkpoint["ema"]["weights"] for checkpoint in (one, other)]
    for expected, found in (stored, averages):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    moments = [c["optimizer_states"][0]["state"] for c in (one, other)]
    for name, state in moments[0].items():
        torch.testing.assert_close(moments[1][name]["exp_avg"], state["exp_avg"], rtol=1e-3, atol=1e-6)


def test_a_folder_of_shards_is_a_checkpoint_like_any_other(moved: Path) -> None:
    shards, file = (moved / "checkpoints" / f"step-{step:08d}.ckpt" for step in (2, 4))
    assert shards.is_dir()
    assert file.is_file()
    assert read_checkpoint(shards).keys() == read_checkpoint(file).keys()
    module = load_module(shards)
    average = read_checkpoint(shards)["ema"]["weights"]
    for name, parameter in module.named_parameters():
        if name in average:
            assert torch.equal(parameter, average[name])


def test_a_sharded_run_continues_sharded_and_predicts(workspace: Workspace, whole: Path) -> None:
    run = train(workspace, "sharded", 2, *SHARDED)
    train(workspace, "sharded", 4, *SHARDED)
    expected = {step: value for step, value in logged(whole).items() if step < 4}
    assert logged(run) == pytest.approx(expected, rel=1e-5)
    train(workspace, "sharded", 4, *SHARDED, command="predict")
    images = {path.name: path.read_bytes() for path in (run / "predictions").glob("*.png")}
    assert len(images) == 8
