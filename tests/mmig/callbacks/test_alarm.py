"""The alarm goes off when it must, and only then."""

import threading
import time

from mmig.callbacks import watchdog
from mmig.callbacks.watchdog import Alarm


def test_it_goes_off_when_nobody_sets_it_again() -> None:
    rung: list[float] = []
    gone = threading.Event()
    own = Alarm(lambda seconds: (rung.append(seconds), gone.set()))
    begun = time.monotonic()
    own.set(0.2)
    assert gone.wait(10)
    assert rung == [0.2]
    assert time.monotonic() - begun >= 0.2


def test_it_stays_quiet_while_it_is_set_again_and_once_it_is_cancelled() -> None:
    gone = threading.Event()
    own = Alarm(lambda seconds: gone.set())
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        own.set(1.0)
        assert not gone.wait(0.05)
    own.cancel()
    assert not gone.wait(1.2)


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    now = 0.0
    gone = threading.Event()
    own = Alarm(lambda seconds: gone.set(), clock=lambda: now)
    own.set(3600.0)
    now = 7200.0  # the process goes on two hours later
    assert not gone.wait(2.5 * watchdog.INTERVAL)
    own.cancel()
