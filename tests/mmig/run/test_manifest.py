"""The run directory's lock and manifest."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmig.run import manifest
from mmig.run.manifest import STALE_SECONDS, RunLockedError, append_submission, process_start, run_lock

DAY = 24 * 3600.0


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A live process of somebody else."""
    with subprocess.Popen(["sleep", "100"]) as process:
        yield process
        process.kill()


def leave_lock(run: Path, pid: int, age: float, **facts: Any) -> None:
    """A lock of this host as a writer leaves it whose heartbeat stopped `age` seconds ago."""
    path = run / "lock.json"
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": pid, **facts}))
    os.utime(path, (time.time() - age, time.time() - age))


def can_take(run: Path) -> bool:
    try:
        with run_lock(run):
            return json.loads((run / "lock.json").read_text())["pid"] == os.getpid()
    except RunLockedError:
        return False


def test_second_live_writer_is_refused(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(RunLockedError, match=f"process {os.getpid()}"), run_lock(tmp_path):
        raise AssertionError("two writers")


def test_lock_is_free_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with run_lock(tmp_path):
            assert (tmp_path / "lock.json").exists()
    assert not (tmp_path / "lock.json").exists()


def test_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from mmig.run.manifest import run_lock\n"
        "with run_lock(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "lock.json").exists()
    with run_lock(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_a_process_that_was_given_the_number_of_a_killed_writer_holds_no_lock(
    tmp_path: Path, other: subprocess.Popen[bytes]
) -> None:
    with run_lock(tmp_path):
        ours = json.loads((tmp_path / "lock.json").read_text())
    assert ours["started"] is not None
    leave_lock(tmp_path, other.pid, age=1, started=ours["started"])
    assert can_take(tmp_path)


def test_a_live_writer_is_not_robbed_however_old_its_heartbeat(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    leave_lock(tmp_path, other.pid, age=DAY, started=process_start(other.pid))  # a suspended machine
    assert not can_take(tmp_path)


@pytest.mark.parametrize(("age", "free"), [(5, False), (DAY, True)])
def test_a_lock_that_does_not_say_when_its_process_started_is_judged_by_its_heartbeat(
    tmp_path: Path, other: subprocess.Popen[bytes], age: float, free: bool
) -> None:
    leave_lock(tmp_path, other.pid, age)
    assert can_take(tmp_path) == free


def test_a_killed_writer_that_nobody_buried_is_dead(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    leave_lock(tmp_path, other.pid, age=1, started=process_start(other.pid))
    assert not can_take(tmp_path)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert can_take(tmp_path)


@pytest.mark.parametrize(("age", "free"), [(5, False), (120, True)])
def test_lock_of_another_host_is_judged_by_its_heartbeat(tmp_path: Path, age: float, free: bool) -> None:
    lock = tmp_path / "lock.json"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    os.utime(lock, (time.time() - age, time.time() - age))
    if free:
        with run_lock(tmp_path):
            assert json.loads(lock.read_text())["pid"] == os.getpid()
    else:
        with pytest.raises(RunLockedError, match="elsewhere"), run_lock(tmp_path):
            raise AssertionError("two writers")


@pytest.mark.parametrize(("job", "free"), [("12", True), ("13", False)])
def test_a_requeued_job_waits_for_the_lock_of_its_last_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, free: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", job)
    leave_lock(tmp_path, pid=1, age=STALE_SECONDS - 1, host="elsewhere", job="12")
    assert can_take(tmp_path) == free


def test_the_heartbeat_outlives_a_file_system_that_fails_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, answers = [], iter([False, False, True])

    def utime(path: Path) -> None:
        times.append(path)
        if len(times) == 1:
            raise OSError("Stale file handle")

    monkeypatch.setattr(manifest.os, "utime", utime)
    manifest._beat(tmp_path / "lock.json", SimpleNamespace(wait=lambda seconds: next(answers)))
    assert times == [tmp_path / "lock.json"] * 2


def test_every_submission_leaves_an_entry(tmp_path: Path) -> None:
    append_submission(tmp_path, resumed_from=None)
    append_submission(tmp_path, resumed_from="step-00000010.ckpt")
    entries = json.loads((tmp_path / "manifest.json").read_text())["submissions"]
    assert [entry["resumed_from"] for entry in entries] == [None, "step-00000010.ckpt"]
    assert {"time", "host", "command", "versions", "commit"} <= entries[0].keys()
    assert {"python", "torch", "peft", "pillow"} <= entries[0]["versions"].keys()  # pillow decodes and resizes
