"""Ctrl-C: a training saves and ends, a second one ends it at once, and every other program ends in one line."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import yaml

from mmig.callbacks.interrupts import PAUSE
from mmig.checkpoints.checkpoint import read_checkpoint
from tests import warm
from tests.integration.small_run import LIMIT, NUM_STEPS, Running, difference, finish, start, write_data
from tests.integration.workspace import ROOT

NUM_RANKS = 2
FIRST_SHARD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
def interrupt(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".tar"):
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
import runpy
sys.path.insert(0, os.getcwd())
runpy.run_module("{module}", run_name="__main__", alter_sys=True)
"""
"""A program that is sent SIGINT when it opens its first shard."""

AT_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt(event, arguments):
    if event == "import" and arguments[0] == "torch":
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
"""
"""Has a program be sent SIGINT when it begins to import torch."""


class Stuck(L.Callback):
    """Stays inside a library, as in a long backward, from a step on; no handler of Python runs there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.step == self.step:
            signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM})  # the others reach the process all the same
            while True:
                time.sleep(3600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and run `whole` that nobody interrupts."""
    folder = tmp_path_factory.mktemp("interrupt")
    write_data(folder)
    assert finish(folder, "whole") == "", (folder / "whole.log").read_text()
    return folder


def end(running: Running) -> tuple[list[int] | None, str]:
    """Exit statuses and the log."""
    statuses = running.wait(LIMIT)
    running.close()
    return statuses, running.log.read_text()


@pytest.mark.parametrize(("event", "count", "rank"), [(b"t", 5, 1), (b"v", 3, None)])
def test_it_saves_ends_with_130_and_the_run_goes_on(folder: Path, event: bytes, count: int, rank: int | None) -> None:
    name = f"once-{event.decode()}-{rank}"
    running = start(folder, name, {"trainer.max_steps": NUM_STEPS})
    running.wait_for(event, count)
    running.signal(signal.SIGINT, rank)
    statuses, log = end(running)
    assert statuses == [130, 0], log
    line = log.rstrip().rpartition("\n")[2]
    said = re.fullmatch(r"SIGINT after step (\d+): saved (\S+); the same command continues from there", line)
    assert said is not None, log
    assert read_checkpoint(said[2])["step"] == int(said[1])
    assert "Traceback" not in log
    assert finish(folder, name) == ""
    assert difference(folder, name) == ""


def test_a_job_of_slurm_is_not_requeued(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # Lightning so takes no ranks from SLURM's environment
    running = start(folder, "job", {"trainer.max_steps": NUM_STEPS})
    running.wait_for(b"t", 3)
    running.signal(signal.SIGINT, None)
    statuses, log = end(running)
    assert statuses == [130, 0], log
    assert not (tmp_path / "asked").exists()


def test_a_second_one_ends_at_once_also_inside_a_library(folder: Path) -> None:
    config = folder / "stuck-too.yaml"
    stuck = {"class_path": f"{__name__}.Stuck", "init_args": {"step": 10}}
    config.write_text(yaml.safe_dump({"trainer": {"callbacks+": [stuck]}}))
    running = start(folder, "stuck", {"config": str(config)}, num_ranks=1)
    running.wait_for(b"t", 11)
    began, sent = time.monotonic(), 0
    while os.waitid(os.P_PID, running.pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < began + LIMIT, running.log.read_text()
        running.signal(signal.SIGINT, 0)
        sent += 1
        time.sleep(PAUSE / 4)  # as fast as somebody who presses it again and again
    statuses, log = end(running)
    assert statuses == [130], log
    assert sent > 2  # those of the first moment are one
    line = log.rstrip().rpartition("\n")[2]
    assert line.startswith("SIGINT again: ended at once, nothing more is saved; the last checkpoint is ")
    assert line.endswith("step-00000008.ckpt")


def test_before_the_first_step_there_is_nothing_to_save(folder: Path) -> None:
    running = start(folder, "early", {"trainer.max_steps": NUM_STEPS})
    deadline = time.monotonic() + LIMIT * 6
    while not (folder / "runs/early/lock.json").exists():  # the program has begun, the first step has not
        assert time.monotonic() < deadline, running.log.read_text()
        time.sleep(0.001)
    running.signal(signal.SIGINT, None)
    statuses, log = end(running)
    assert statuses == [130, 130], log
    assert "Traceback" not in log
    assert log.count("SIGINT: ended outside of the steps of a training, there is nothing to save\n") == 1


@pytest.fixture(scope="module")
def programs(folder: Path) -> dict[str, list[str]]:
    """Module and arguments of programs that read shards."""
    shards = {"class_path": "datamodules.shard_data.ShardData", "init_args": {"train": str(folder / "train")}}
    shards["init_args"] |= {"test": str(folder / "val"), "global_batch_size": 4}
    (folder / "data.yaml").write_text(yaml.safe_dump({"data": shards}))
    mapper = {"mapper": {"class_path": "tests.mmig.cache.toy_mappers.Painter"}, "batch_size": 4}
    (folder / "mapper.yaml").write_text(yaml.safe_dump(mapper))
    data, out = str(folder / "data.yaml"), str(folder / "out")
    options = ["--out", out]
    return {
        "evaluate": ["--config", "configs/editors/identity.yaml", "--data", data, *options],
        "mmig.run.map": ["--config", str(folder / "mapper.yaml"), "--source", str(folder / "train"), *options],
        "datamodules.shards": ["verify", str(folder / "train")],
        "mmig.run.cache": ["--config", "configs/demo/stage1.yaml", "--config", data, *options, "--name", "x"],
    }


@pytest.mark.parametrize("module", ["evaluate", "mmig.run.map", "mmig.run.cache", "datamodules.shards"])
def test_other_programs_end_in_one_line(module: str, programs: dict[str, list[str]], tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(FIRST_SHARD.format(module=module), encoding="utf-8")
    done = subprocess.run(
        [warm.python(), str(tmp_path / "interrupted.py"), *programs[module]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.rstrip().rpartition("\n")[2] == "interrupted"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["mmig.run.cache", "mmig.run.map", "mmig.run.export"])
def test_so_they_do_while_they_are_still_imported(module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT)
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (130, -signal.SIGINT)  # either is 130 to a shell
    assert done.stderr == "interrupted\n"
