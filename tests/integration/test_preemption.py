"""Signals to real ranks: whole checkpoints, documented statuses, exact resumes. More: test_random_signals.py."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmig.checkpoints.checkpoint import read_checkpoint
from tests.integration.losses import logged
from tests.integration.small_run import LIMIT, NUM_STEPS, Running, difference, finish, start, write_data
from tests.integration.workspace import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and run `whole` that nobody interrupts."""
    folder = tmp_path_factory.mktemp("preemption")
    write_data(folder)
    assert finish(folder, "whole") == "", (folder / "whole.log").read_text()
    return folder


def begin(folder: Path, name: str) -> Running:
    return start(folder, name, {"trainer.max_steps": NUM_STEPS})


def end(running: Running) -> tuple[list[int] | None, str]:
    """Exit statuses and the last line of the log."""
    statuses = running.wait(LIMIT)
    running.close()
    return statuses, running.log.read_text().rstrip().rpartition("\n")[2]


def test_a_run_that_moves_leaves_no_stack_traces(folder: Path) -> None:
    assert not (folder / "runs" / "whole" / "hang").exists()


def test_a_signal_to_one_rank_in_the_middle_of_a_validation(folder: Path) -> None:
    running = begin(folder, "validation")
    running.wait_for(b"v", 3)
    running.signal(signal.SIGTERM, 1)
    statuses, line = end(running)
    assert statuses == [143, 0]
    path = folder / "runs/validation/checkpoints/step-00000010.ckpt"
    assert line == f"SIGTERM after step 10: saved {path}; the same command continues from there"
    assert logged(folder / "runs/validation", "val/loss") == {}
    assert finish(folder, "validation") == ""
    assert difference(folder, "validation") == ""
    assert logged(folder / "runs/validation", "val/loss") == logged(folder / "runs/whole", "val/loss")


def test_more_signals_to_all_processes_while_saving(folder: Path) -> None:
    running = begin(folder, "repeated")
    running.wait_for(b"t", 5)
    running.signal(signal.SIGUSR1, None)
    running.wait_for(b"s")
    running.signal(signal.SIGTERM, None)
    running.signal(signal.SIGUSR1, None)
    statuses, line = end(running)
    assert statuses == [138, 0], line
    said = re.match(r"SIGUSR1 after step (\d+): saved (\S+); the same command continues from there", line)
    assert said is not None, line
    assert read_checkpoint(said[2])["step"] == int(said[1])
    assert finish(folder, "repeated") == ""
    assert difference(folder, "repeated") == ""


def test_a_save_that_fails_still_requeues_the_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = folder / "asked"
    (folder / "bin").mkdir()
    scontrol = folder / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$*" >> {asked}\n[ "$1" != show ] || echo "JobState=RUNNING"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # Lightning so takes no ranks from SLURM's environment
    running = begin(folder, "unsaved")
    running.wait_for(b"t", 3)
    (folder / "runs/unsaved/checkpoints").write_text("a file where the folder should be")
    running.signal(signal.SIGUSR1, 0)
    statuses, line = end(running)
    assert statuses is not None and statuses[0] == 1, line
    assert re.search(r"saving failed \(.*\), the last checkpoint is none; job 42 is requeued", running.log.read_text())
    assert asked.read_text().splitlines() == ["show job 42", "requeue 42"]


def test_a_signal_before_the_first_step_ends_in_the_ordinary_way(folder: Path) -> None:
    running = begin(folder, "early")
    running.signal(signal.SIGTERM, None)
    assert running.wait(LIMIT) == [-signal.SIGTERM, -signal.SIGTERM]  # perhaps before there is a log
    running.close()
    assert not (folder / "runs/early/checkpoints").exists()


@pytest.mark.slow
def test_lightning_starts_the_ranks_and_its_process_alone_is_signalled(folder: Path) -> None:
    config = yaml.safe_load((folder / "whole.yaml").read_text())
    config["trainer"].pop("callbacks")
    (folder / "launched.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", str(folder / "launched.yaml"), "--name", "launched", "--runs", str(folder / "runs")]
    command = [sys.executable, "train.py", "fit", *options, "--trainer.max_steps", "100000"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        while not process.stdout.readline().startswith("step "):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 143, errors
        assert re.match(r"SIGTERM after step \d+: saved \S+; the same command", errors.rstrip().rpartition("\n")[2])
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
