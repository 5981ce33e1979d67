"""The run directory's lock and manifest."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmig.manifest import RunLockedError, append_submission, run_lock


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
        "import os, signal, sys; from pathlib import Path; from mmig.manifest import run_lock\n"
        "with run_lock(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "lock.json").exists()
    with run_lock(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


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


def test_every_submission_leaves_an_entry(tmp_path: Path) -> None:
    append_submission(tmp_path, resumed_from=None)
    append_submission(tmp_path, resumed_from="step-00000010.ckpt")
    entries = json.loads((tmp_path / "manifest.json").read_text())["submissions"]
    assert [entry["resumed_from"] for entry in entries] == [None, "step-00000010.ckpt"]
    assert {"time", "host", "command", "versions", "commit"} <= entries[0].keys()
