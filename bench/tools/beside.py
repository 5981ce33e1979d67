"""Programs beside what is measured that want a core all the time."""

import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

BUSY = "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1:]))\nwhile True: pass"


@contextmanager
def busy_programs(places: Sequence[Collection[int]]) -> Iterator[None]:
    """One single-threaded program for each entry, on one of the cores that it names."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY, *map(str, cores)]) for cores in places]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()
