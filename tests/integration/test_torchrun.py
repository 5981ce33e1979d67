"""torchrun starts the same run that Lightning's own launcher starts."""

import sys
from pathlib import Path

import pytest
import torch

from mmig.checkpoints.checkpoint import read_checkpoint
from tests.integration.losses import logged
from tests.integration.workspace import Workspace

NUM_STEPS = 4
RANKS = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


@pytest.mark.slow
def test_two_processes_of_torchrun_take_the_steps_of_lightnings(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    config = workspace.config(max_steps=NUM_STEPS)
    own = workspace.train("own", *RANKS, config=config)
    assert own.returncode == 0, own.stderr
    file = tmp_path / "own.yaml"
    launched = workspace.run(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py", "fit"),
        *("--config", str(file), "--name", "launched", "--runs", str(tmp_path / "runs"), *RANKS),
        interpreter=sys.executable,
    )
    assert launched.returncode == 0, launched.stderr
    runs = [tmp_path / "runs" / name for name in ("own", "launched")]
    assert logged(runs[1]) == logged(runs[0])
    assert len(logged(runs[1])) == NUM_STEPS
    expected, found = (read_checkpoint(run)["state_dict"] for run in runs)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
