"""An alarm that goes off unless it is set again in time."""

import threading
import time
from collections.abc import Callable

INTERVAL = 1.0
"""Seconds between two looks at the clock."""


class Alarm:
    """Calls `ring` from a thread of its own when the time that was set has run out. Setting it costs nothing.

    Time in which the process itself was stopped (as `scontrol suspend` does) does not count.

    Args:
        ring: called once, with the number of seconds that have run out.
        clock: what time it is, in seconds.
    """

    def __init__(self, ring: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._ring, self._clock = ring, clock
        self._seconds = self._deadline = 0.0
        self._off = threading.Event()
        self._thread: threading.Thread | None = None

    def set(self, seconds: float) -> None:
        """Go off in so many seconds from now."""
        self._seconds, self._deadline = seconds, self._clock() + seconds
        if self._thread is None:
            self._off.clear()
            self._thread = threading.Thread(target=self._watch, args=(self._off,), daemon=True, name="alarm")
            self._thread.start()

    def cancel(self) -> None:
        """Never go off, unless it is set again."""
        self._off.set()
        self._thread, self._off = None, threading.Event()

    def _watch(self, off: threading.Event) -> None:
        before = self._clock()
        while not off.wait(min(INTERVAL, max(self._deadline - before, 0.0))):
            now = self._clock()
            if now - before > 2 * INTERVAL:  # this process was stopped
                self._deadline += now - before
            before = now
            if now >= self._deadline:
                self._ring(self._seconds)
                return
