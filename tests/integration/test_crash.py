"""kill -9 and resume: the surviving trajectory is the uninterrupted one, bit for bit. More: test_random_kills.py."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmig.checkpoints.checkpoint import read_checkpoint
from tests.integration.forks import fork_ranks, wait_for_end
from tests.integration.losses import logged
from tests.integration.workspace import Workspace

NUM_STEPS, EVERY = 14, 4
SECONDS = 300.0
LAYOUTS = ((1, "auto"), (2, "ddp"), (2, "fsdp2"))
KILLS = {
    (1, "auto"): [("forward", 2, 0), ("write", 4, 0), ("rename", 4, 0), ("validation", 8, 0), ("copy", 12, 0)],
    (2, "ddp"): [("write", 4, 0), ("forward", 9, 1)],
    (2, "fsdp2"): [("write", 4, 1), ("rename", 8, 0)],
}
"""Where a run dies, after which step, and which of its ranks."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("crash"))


def train(workspace: Workspace, name: str, layout: tuple[int, str] = LAYOUTS[0], *options: str, **trainer: Any) -> str:
    """Give a run's command, on ranks that are processes; returns their exit statuses and what the log says at last."""
    num_ranks, strategy = layout
    settings = {"max_steps": NUM_STEPS, "val_check_interval": 2 * EVERY, "enable_progress_bar": False, **trainer}
    config = workspace.config(devices=num_ranks, strategy=strategy, **settings)
    file, log = workspace.folder / f"{name}.yaml", workspace.folder / f"{name}.log"
    file.write_text(yaml.safe_dump(config | {"checkpoint": {"every_n_steps": EVERY}}), encoding="utf-8")
    runs = workspace.folder / "runs"
    arguments = ["fit", "--config", str(file), "--name", name, "--runs", str(runs), *options]
    statuses = wait_for_end(fork_ranks(arguments, num_ranks, log), SECONDS)
    return f"{statuses} {log.read_text().strip().rpartition(chr(10))[2]}"


@pytest.fixture(scope="module")
def whole(workspace: Workspace) -> Iterator[dict[tuple[int, str], Path]]:
    """Runs that nothing interrupts."""
    for layout in LAYOUTS:
        ended = train(workspace, f"whole-{layout[1]}", layout)
        assert ended.startswith(str([0] * layout[0])), ended
    return {layout: workspace.folder / "runs" / f"whole-{layout[1]}" for layout in LAYOUTS}


def tensors(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    parts = values.values() if isinstance(values, dict) else values if isinstance(values, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout[0]}-{layout[1]}")
def test_killed_run_continues_as_if_nothing_had_happened(
    workspace: Workspace, whole: dict[tuple[int, str], Path], layout: tuple[int, str]
) -> None:
    name = f"killed-{layout[1]}"
    for where, step, rank in KILLS[layout]:
        settings = {"step": step, "where": where, "rank": rank}
        kill = {"class_path": "tests.integration.kill.KillAtStep", "init_args": settings}
        statuses = train(workspace, name, layout, callbacks=[kill])
        died = -signal.SIGXFSZ if where == "write" else -signal.SIGKILL
        assert not (workspace.folder / "runs" / name / "finished.json").exists()
        assert str(int(died)) in statuses and "0" not in statuses.partition("]")[0].strip("[").split(", "), statuses
    left = list((workspace.folder / "runs" / name / "checkpoints").glob("*.partial"))
    ended = train(workspace, name, layout)
    assert ended.startswith(str([0] * layout[0])), ended
    run = workspace.folder / "runs" / name
    assert logged(run) == logged(whole[layout]) and len(logged(run)) == NUM_STEPS
    ours, theirs = (
        read_checkpoint(path / "checkpoints" / f"step-{NUM_STEPS:08d}.ckpt") for path in (run, whole[layout])
    )
    for part in ("state_dict", "ema", "optimizer_states"):
        pairs = zip(tensors(ours[part]), tensors(theirs[part]), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), part
    assert (left != []) == (KILLS[layout][-1][0] in ("write", "rename"))
    assert list((run / "checkpoints").glob("*.partial")) == []


def test_finished_run_has_nothing_left_to_do(workspace: Workspace, whole: dict[tuple[int, str], Path]) -> None:
    last = whole[LAYOUTS[0]] / "checkpoints" / f"step-{NUM_STEPS:08d}.ckpt"
    assert json.loads((whole[LAYOUTS[0]] / "finished.json").read_text())["step"] == NUM_STEPS
    before = last.read_bytes()
    assert train(workspace, "whole-auto").startswith("[0]")
    assert last.read_bytes() == before
    assert (whole[LAYOUTS[0]] / "finished.json").exists()


def test_changed_setting_is_refused_by_name(workspace: Workspace, whole: dict[tuple[int, str], Path]) -> None:
    ended = train(workspace, "whole-auto", LAYOUTS[0], "--model.init_args.optimizer.lr", "0.5")
    assert ended.startswith("[1] error: ") and "model.init_args.optimizer.lr: 0.001 -> 0.5" in ended


def test_new_run_starts_from_the_weights_of_another(workspace: Workspace, whole: dict[tuple[int, str], Path]) -> None:
    source = whole[2, "fsdp2"]  # in shards
    options = ("--init_from", str(source), "--model.init_args.optimizer.lr", "1e-12")
    ended = train(workspace, "second", LAYOUTS[0], *options, max_steps=1)
    assert ended.startswith("[0]"), ended
    started = read_checkpoint(workspace.folder / "runs" / "second")
    assert started["step"] == 1
    for name, value in read_checkpoint(source)["ema"]["weights"].items():
        torch.testing.assert_close(started["state_dict"][name], value, rtol=0, atol=1e-9)
