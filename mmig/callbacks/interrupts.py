"""The second Ctrl-C, which ends a process wherever it is."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

PAUSE = 0.3
"""Seconds from the first on in which another SIGINT is the same: a terminal and a launcher may both have sent it."""
STATUS = 128 + signal.SIGINT


class SecondInterrupt:
    """Watches for SIGINT beside the handler, from a thread: the main one may be inside a library for long.

    Args:
        first: called when SIGINT comes.
        second: called before a further one ends the process, with status 130 and without any tidying.
    """

    def __init__(self, first: Callable[[], object], second: Callable[[], object]) -> None:
        self._first, self._second = first, second
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # the system's handler writes the signal's number there, whatever Python is doing
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="second-interrupt")
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
        while number := os.read(self._read, 1)[0]:
            if number != signal.SIGINT:
                continue
            if came is None:
                came = time.monotonic()
                self._first()
            elif time.monotonic() - came > PAUSE:
                self._second()
                for child in multiprocessing.active_children():
                    child.kill()  # loader workers hear no other signal
                sys.stderr.flush()
                os._exit(STATUS)
