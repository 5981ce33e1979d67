"""SIGTERM and SIGUSR1 to one rank and to all at random moments inside steps, saves and validations.

Every rank ends with its documented status and no process is left; the checkpoint that the last line of the log names is
whole and of that step; the same command then ends as a run that nobody interrupted, bit for bit. Chosen moments:
test_preemption.py.
"""

import random
import re
import signal
from pathlib import Path

import pytest

from mmig.checkpoints.checkpoint import read_checkpoint
from tests.integration.small_run import LIMIT, NUM_RANKS, difference, finish, start, write_data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PHASES = {b"t": 15, b"v": 12, b"s": 2}
"""Inside what a signal may come (step, validation batch, save), and up to the how-manieth of them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and run `whole` that nobody interrupts."""
    folder = tmp_path_factory.mktemp("signals")
    write_data(folder)
    assert finish(folder, "whole") == ""
    return folder


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("to_all", [False, True], ids=["one", "all"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signalled_run_ends_whole_and_continues_exactly(
    folder: Path, number: signal.Signals, to_all: bool, seed: int
) -> None:
    draws, name = random.Random(f"{number.name} {to_all} {seed}"), f"{number.name}-{to_all}-{seed}"
    phase = draws.choice(list(PHASES))
    running = start(folder, name, {})
    assert running.reaches(phase, draws.randint(1, PHASES[phase]), seconds=draws.uniform(0, 0.05))
    running.signal(number, None if to_all else draws.randrange(NUM_RANKS))
    statuses = running.wait(LIMIT)
    running.close()
    line = running.log.read_text().rstrip().rpartition("\n")[2]
    assert statuses == [128 + number, *[0] * (NUM_RANKS - 1)], line
    said = re.match(rf"{number.name} after step (\d+): saved (\S+);", line)
    assert said is not None, line
    assert read_checkpoint(said[2])["step"] == int(said[1])
    assert finish(folder, name) == ""
    assert difference(folder, name) == ""
