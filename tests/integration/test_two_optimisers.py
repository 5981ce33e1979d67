"""A module with two optimisers through train.py's command line: kill -9 and resume on one and two ranks; no FSDP2."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmig.checkpoints.checkpoint import read_checkpoint
from tests.integration.forks import fork_ranks, wait_for_end
from tests.integration.losses import logged
from tests.integration.small_run import same
from tests.two_optimisers import optimizer_steps

NUM_STEPS, EVERY = 14, 4
SECONDS = 120.0
SETTINGS = {"adaptive": True, "start": 3, "every": 2, "offset": 1, "dropout": 0.2, "micro_batch_size": 2}
"""The discriminator is due in steps 3, 5, ..., 13."""
KILLS = [("write", 4), ("forward", 6), ("copy", 12)]
"""Where a run dies, after which step; the first and the last before the checkpoint of that step is whole."""


def train(folder: Path, name: str, num_ranks: int, strategy: str = "", **trainer: Any) -> str:
    """Give a run's command, on ranks that are processes; returns their exit statuses and what the log says at last."""
    config = {
        "model": {"class_path": "tests.two_optimisers.ToyGAN", "init_args": SETTINGS},
        "data": {"class_path": "tests.toy.ToyData"},
        "trainer": {
            "accelerator": "cpu", "devices": num_ranks, "strategy": strategy or ("ddp" if num_ranks > 1 else "auto"),
            "max_steps": NUM_STEPS, "log_every_n_steps": 1, "val_check_interval": 2 * EVERY,
            "enable_progress_bar": False, **trainer,
        },
        "checkpoint": {"every_n_steps": EVERY},
        "ema": {"decay": 0.9, "exclude": ["generator.2.bias"]},
    }  # fmt: skip
    file, log = folder / f"{name}.yaml", folder / f"{name}.log"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    arguments = ["fit", "--config", str(file), "--name", name, "--runs", str(folder / "runs")]
    statuses = wait_for_end(fork_ranks(arguments, num_ranks, log), SECONDS)
    return f"{statuses} {log.read_text().strip().rpartition(chr(10))[2]}"


@pytest.mark.parametrize("num_ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_again_and_again_a_run_ends_as_one_that_is_not(tmp_path: Path, num_ranks: int) -> None:
    ended = train(tmp_path, "whole", num_ranks)
    assert ended.startswith(str([0] * num_ranks)), ended
    for where, step in KILLS:
        kill = {"step": step, "where": where, "rank": num_ranks - 1 if where == "forward" else 0}
        ended = train(
            tmp_path, "killed", num_ranks,
            callbacks=[{"class_path": "tests.integration.kill.KillAtStep", "init_args": kill}],
        )  # fmt: skip
        died = -signal.SIGXFSZ if where == "write" else -signal.SIGKILL
        assert str(int(died)) in ended.partition("]")[0], ended
    ended = train(tmp_path, "killed", num_ranks)
    assert ended.startswith(str([0] * num_ranks)), ended
    runs = [tmp_path / "runs" / name for name in ("whole", "killed")]
    steps = {"loss": range(NUM_STEPS), "hinge": range(3, NUM_STEPS, 2), "weight/gan": range(3, NUM_STEPS)}
    for tag, expected in steps.items():  # between two steps of the discriminator Lightning repeats what it logged
        curves = [[logged(run, f"train/{tag}").get(step) for step in expected] for run in runs]
        assert curves[0] == curves[1] and None not in curves[0], tag
    assert logged(runs[1]).keys() == set(steps["loss"])
    ends = [read_checkpoint(run) for run in runs]
    for part in ("step", "state_dict", "ema", "optimizer_states"):
        assert same(ends[0][part], ends[1][part]), part
    for run in runs:
        assert json.loads((run / "finished.json").read_text())["step"] == NUM_STEPS
        assert optimizer_steps(run) == {"rebuilder": NUM_STEPS, "critic": 6}
        kept = read_checkpoint(run)["ema"]["weights"]
        assert kept.keys() == {"generator.0.weight", "generator.0.bias", "generator.2.weight"}


def test_fully_sharded_training_is_refused_in_one_line(tmp_path: Path) -> None:
    ended = train(tmp_path, "sharded", 1, "fsdp2")
    assert ended.startswith("[1] error: trainer.strategy fsdp2: ToyGAN trains with several optimisers"), ended
    assert "(rebuilder, critic)" in ended and "expected ddp" in ended
    assert "Traceback" not in (tmp_path / "sharded.log").read_text()
