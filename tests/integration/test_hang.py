"""One of two real ranks hangs: the run ends within the time-out, with a stack trace of both."""

import pickle
import signal
import time
from pathlib import Path

import pytest

from mmig.callbacks.watchdog import STATUS
from tests.integration.small_run import Running, start, write_data

SECONDS = 3.0
LIMIT = SECONDS + 40.0
"""The time-out, what neighbours get to write, and what a busy machine needs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hang")
    write_data(folder)
    return folder


def begin(folder: Path, name: str, **settings: object) -> Running:
    times = {"watchdog.step_seconds": SECONDS, "watchdog.evaluation_seconds": 60.0, "watchdog.start_seconds": 120.0}
    return start(folder, name, {"trainer.max_steps": 10_000, "trainer.val_check_interval": 5000, **times, **settings})


def traces(folder: Path, name: str) -> list[str]:
    return [(folder / "runs" / name / "hang" / f"rank{rank}.txt").read_text() for rank in (0, 1)]


def test_a_rank_that_is_stuck(folder: Path) -> None:
    hang = '{"class_path": "tests.integration.hang.Hang", "init_args": {"step": 5, "rank": 1}}'
    running = begin(folder, "stuck", **{"trainer.callbacks+": hang})
    running.wait_for(b"t", 6)
    begun = time.monotonic()
    statuses = running.wait(LIMIT)
    # the first to see it ends its neighbour too, where that is slower
    assert statuses and STATUS in statuses and set(statuses) <= {STATUS, -signal.SIGKILL}, running.log.read_text()
    assert time.monotonic() - begun >= SECONDS / 2
    running.close()
    first, second = traces(folder, "stuck")
    assert "rank 1: nothing has moved for 3 s after step 5" in second
    assert "wait_for_ever" in second
    assert "wait_for_ever" not in first
    assert "training_step" in first
    recorded = pickle.loads((folder / "runs/stuck/hang/rank0.collectives.pickle").read_bytes())
    assert any(entry["profiling_name"] == "gloo:all_reduce" for entry in recorded["entries"])
    assert "stack traces of its ranks are in" in running.log.read_text()


def test_a_rank_that_is_stopped(folder: Path) -> None:
    running = begin(folder, "stopped", **{"watchdog.grace_seconds": 4.0})
    running.wait_for(b"t", 6)
    running.signal(signal.SIGSTOP, 0)
    statuses = running.wait(LIMIT)
    running.close()
    assert statuses is not None, running.log.read_text()
    assert statuses[1] == STATUS
    assert statuses[0] in (STATUS, -signal.SIGKILL)  # awake again it may have seen for itself that nothing moves
    for trace in traces(folder, "stopped"):
        assert "on_train_batch_end" in trace or "training_step" in trace or "advance" in trace
