"""kill -9 at random moments, of all ranks or of one alone, again and again: a run ends as if nothing had happened.

Killed is inside a step, a validation, the copy of the state, the writing of a file or of shards, and between writing
and renaming; where one rank is killed alone, the others end by themselves. Chosen moments: test_crash.py.
"""

import random
import signal
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.small_run import Running, difference, finish, start, write_data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NUM_STEPS, EVERY = 40, 4
LIMIT = 60.0
"""Seconds from the kill to the end of the last process; a rank that hangs would take half an hour."""


class Moment(NamedTuple):
    """Inside what a kill comes: the letter that `Told` gives, up to the how-manieth, and seconds after it at most."""

    letter: bytes
    most: int
    seconds: float


STEP, VALIDATION, COPY = Moment(b"t", 14, 0.05), Moment(b"v", 8, 0.02), Moment(b"s", 2, 0.003)
WRITE, RENAME = Moment(b"w", 3, 0.005), Moment(b"r", 2, 0.0)
MOMENTS = (STEP, VALIDATION, COPY, WRITE, RENAME)


class Layout(NamedTuple):
    """Ranks and strategy of a run, and how far its numbers may be from those of one that nobody interrupts."""

    num_ranks: int
    strategy: str
    tolerance: float = 0.0

    def settings(self) -> dict[str, Any]:
        """Options of the run."""
        return {
            "model.init_args.channels": 64,
            "data.init_args.global_batch_size": 6,
            "trainer.max_steps": NUM_STEPS,
            "trainer.strategy": self.strategy,
            "checkpoint.every_n_steps": EVERY,
        }

    def __str__(self) -> str:
        return f"{self.num_ranks}-{self.strategy}"


LAYOUTS = (
    Layout(1, "auto"),
    Layout(2, "ddp"),
    Layout(2, "fsdp2"),
    Layout(3, "ddp", tolerance=1e-6),  # sums over three ranks are not always added up in one order
    Layout(3, "fsdp2", tolerance=1e-6),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    write_data(folder)
    return folder


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def layout(request: pytest.FixtureRequest, folder: Path) -> Layout:
    """A layout, of which `whole-LAYOUT` is a run that nobody interrupts."""
    layout = request.param
    assert finish(folder, f"whole-{layout}", layout.settings(), layout.num_ranks) == ""
    return layout


def live(folder: Path, name: str, layout: Layout, moment: Moment, draws: random.Random) -> bool:
    """Give the command and kill inside the moment; False if the run ended before."""
    number, victim = draws.randint(1, moment.most), draws.choice([None, draws.randrange(layout.num_ranks)])
    if moment is RENAME:
        victim = None if victim is None else 0  # which dies of itself, between two lines of the program
    die_at_rename = number if moment is RENAME else 0
    running = start(folder, name, layout.settings(), layout.num_ranks, die_at_rename)
    if reached := running.reaches(moment.letter, number, draws.uniform(0, moment.seconds)):
        running.signal(signal.SIGKILL, victim)
    return died(running, LIMIT if reached else 300)


def died(running: Running, seconds: float) -> bool:
    """Whether the run was killed; no process may be left, and one that was not killed ends well."""
    statuses = running.wait(seconds)
    running.close()
    assert statuses is not None, f"processes were left after {seconds:g} s: {running.log.read_text()[-1000:]}"
    killed = -signal.SIGKILL in statuses
    assert killed or not any(statuses), f"{statuses}: {running.log.read_text()[-1000:]}"
    return killed


@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_is_killed_up_to_five_times_ends_as_one_that_is_not(folder: Path, layout: Layout, seed: int) -> None:
    draws, name = random.Random(seed), f"{layout}-{seed}"
    lives = (live(folder, name, layout, moment, draws) for moment in draws.sample(MOMENTS, len(MOMENTS)))
    assert sum(takewhile(bool, lives)) > 0  # a later life may come to the end of the run
    assert finish(folder, name, layout.settings(), layout.num_ranks) == ""
    assert difference(folder, name, f"whole-{layout}", layout.tolerance) == ""
