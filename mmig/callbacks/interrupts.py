"""A thread that hears Ctrl-C where the main one does not, and ends the process."""

import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable

PAUSE = 0.3
"""Seconds from the first on in which another SIGINT is the same: a terminal and a launcher may both have sent it."""
STATUS = 128 + signal.SIGINT


class InterruptWatch:
    """Watches for SIGINT beside the handler, from a thread: the main one may be inside a library for long.

    Args:
        first: called when SIGINT comes.
        last: called before a further one ends the process, with status 130 and without any tidying.
        grace: seconds that the handler has to end it, or the first one does; None: it may take its time.
    """

    def __init__(self, first: Callable[[], object], last: Callable[[], object], grace: float | None = None) -> None:
        self._first, self._last, self._grace = first, last, grace
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # the system's handler writes the signal's number there, whatever Python is doing
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="interrupt-watch")
        self._thread.start()

    def close(self) -> None:
        """Watch no longer."""
        signal.set_wakeup_fd(self._before)
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def _watch(self) -> None:
        came: float | None = None
        while True:
            wait = None if came is None or self._grace is None else max(0.0, came + self._grace - time.monotonic())
            if select.select([self._read], [], [], wait)[0]:
                number = os.read(self._read, 1)[0]
                if not number:
                    return
                if number != signal.SIGINT:
                    continue
                if came is None:
                    came = time.monotonic()
                    self._first()
                    continue
                if time.monotonic() - came <= PAUSE:
                    continue
            self._last()
            for child in multiprocessing.active_children():
                child.kill()  # loader workers hear no other signal
            sys.stderr.flush()
            os._exit(STATUS)
