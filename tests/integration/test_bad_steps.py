"""NaN on one of two ranks: the step is skipped on both; several in a row end both, with one line that says why."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from mmig.checkpoints.checkpoint import read_checkpoint
from tests.integration.losses import logged
from tests.integration.workspace import Workspace

BATCH = 4
POISONED = [2 * BATCH + 3, *(step * BATCH + 2 for step in (5, 6, 7))]
"""One sample of the third step, and of the sixth to eighth; with two ranks all on the second."""
TWO_RANKS = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--checkpoint.every_n_steps", "5")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("bad_steps"))


def train(
    workspace: Workspace, name: str, callback: str, settings: dict[str, list[int]], steps: int, *more: str
) -> subprocess.CompletedProcess[str]:
    made = {"class_path": f"tests.integration.poison.{callback}", "init_args": settings}
    config = workspace.config(max_steps=steps, callbacks=[made], enable_progress_bar=False)
    return workspace.train(name, *TWO_RANKS, *more, config=config)


@pytest.fixture(scope="module")
def poisoned(workspace: Workspace) -> subprocess.CompletedProcess[str]:
    """A run that skips its third step and ends at its eighth, the third bad one in a row."""
    return train(workspace, "poisoned", "Poison", {"positions": POISONED}, 20, "--guard.max_skipped_in_a_row", "3")


@pytest.fixture(scope="module")
def run(workspace: Workspace, poisoned: subprocess.CompletedProcess[str]) -> Path:
    return workspace.folder / "runs" / "poisoned"


def test_the_run_ends_on_both_ranks_with_one_line(poisoned: subprocess.CompletedProcess[str], run: Path) -> None:
    assert poisoned.returncode == 1, poisoned.stderr
    lines = poisoned.stderr.splitlines()
    [last] = [line for line in lines if line.startswith("error: ")]
    assert lines[-1] == last and "Traceback" not in poisoned.stderr
    assert "steps 6 to 8 were skipped" in last and "mmsm is nan, sdm is nan; samples " in last
    for part in (run / "bad_steps.jsonl", run / "checkpoints" / "step-00000005.ckpt"):
        assert str(part) in last


def test_every_skipped_step_is_there_with_the_keys_of_both_ranks(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "bad_steps.jsonl").read_text().splitlines()]
    assert [(row["step"], row["in_a_row"]) for row in rows] == [(3, 1), (6, 1), (7, 2), (8, 3)]
    for row in rows:
        first, second = row["keys"]
        assert len(first) == len(second) == BATCH // 2 and not set(first) & set(second)
        assert not row["keys_not_finite"][0] and row["keys_not_finite"][1]


def test_skipped_steps_are_counted_in_the_log(run: Path) -> None:
    assert list(logged(run, "train/skipped_steps").values()) == [0, 0, 1, 1, 1, 2, 3]  # the eighth ended the run


def test_nothing_newer_than_the_last_good_step_is_kept(run: Path) -> None:
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-00000005.ckpt"]


def test_the_run_went_on_as_if_the_step_had_been_left_out(workspace: Workspace, run: Path) -> None:
    result = train(workspace, "left_out", "LeaveOut", {"steps": [3]}, 5)
    assert result.returncode == 0, result.stderr
    left, right = (read_checkpoint(place) for place in (run, workspace.folder / "runs" / "left_out"))
    for part in (lambda end: end["state_dict"], lambda end: end["ema"]["weights"]):
        assert all(torch.equal(part(left)[name], value) for name, value in part(right).items())
    assert left["ema"]["updates"] == right["ema"]["updates"] == 4
    moments = [end["optimizer_states"][0]["state"] for end in (left, right)]
    assert all(torch.equal(moments[0][name]["exp_avg"], value["exp_avg"]) for name, value in moments[1].items())
