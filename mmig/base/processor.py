"""Cores that other programs want too: threads sleep while they wait for one another there, and spin elsewhere.

Between two parallel pieces of work libgomp's threads, with which torch computes on CPUs, wait by spinning. On cores of
their own nothing is faster; where another program wants one of these cores, a thread that only spins takes turns with
it, and whoever has work waits (figures: docs/performance.md, `python bench/busy.py`). How long they spin is read from
the environment once. But threads of a process that has more of them than processors sleep almost at once (GCC's manual
of libgomp, GOMP_SPINCOUNT), and that is looked at each time: so a further thread is held, which does nothing, as long
as others are seen to be there. How many threads compute, and with it every bit of a result, stays the same.
"""

import os
import threading
import time
from pathlib import Path

INTERVAL = 0.5
"""Seconds between two looks."""
WORKING = 0.1
"""Seconds a second that a thread runs if it is one of those that compute."""
CROWDED, CALM = 0.15, 0.08
"""Seconds a second that these waited for a core above which others are there, and below which none are. Alone it was
0.02, asleep or not, beside one busy program on two cores 0.45 to 1.0."""
CALM_LOOKS = 4
"""So many calm looks in a row end the care for others."""
Times = dict[str, tuple[float, float]]

_sharing: "SharedCores | None" = None


def share_cores() -> None:
    """Have this process look out for others from now on; once is enough. Does nothing where the system cannot say."""
    global _sharing
    if _sharing is None and thread_times():
        _sharing = SharedCores()


def thread_times() -> Times:
    """Seconds that each thread of this process ran, and that it was ready to run and had no core; none but on Linux."""
    times = {}
    for file in Path("/proc/self/task").glob("*/schedstat"):
        try:
            ran, waited, _ = file.read_text().split()
        except (OSError, ValueError):
            continue  # the thread ended, or the kernel keeps no such figures
        times[file.parent.name] = int(ran) / 1e9, int(waited) / 1e9
    return times


def waited_for_cores(before: Times, after: Times, seconds: float) -> float:
    """Seconds a second that the threads which compute waited for a core, all together."""
    changes = [(after[name][0] - before[name][0], after[name][1] - before[name][1]) for name in before.keys() & after]
    return sum(waited for ran, waited in changes if ran > WORKING * seconds) / seconds


class SharedCores:
    """Watches, in a thread of its own, whether others want this process's cores, and lets its threads wait accordingly.

    Attributes:
        asleep: whether threads sleep where they would spin.
    """

    def __init__(self) -> None:
        self.asleep = False
        self._calm_looks = 0
        self._closed, self._release = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="shared cores", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no more, and let them spin."""
        self._closed.set()
        self._thread.join()
        self._spin()

    def look(self, share: float) -> None:
        """Decide by the seconds a second that threads waited for a core."""
        self._calm_looks = self._calm_looks + 1 if share < CALM else 0
        if not self.asleep and share > CROWDED:
            self._sleep()
        elif self.asleep and self._calm_looks >= CALM_LOOKS:
            self._spin()

    def _watch(self) -> None:
        before, then = thread_times(), time.monotonic()
        while not self._closed.wait(INTERVAL):
            after, now = thread_times(), time.monotonic()
            self.look(waited_for_cores(before, after, now - then))
            before, then = after, now

    def _sleep(self) -> None:
        import torch  # by now whoever computes has it

        if torch.get_num_threads() < max(2, len(os.sched_getaffinity(0))):
            return  # a core is left for others, or there is nothing to wait for
        self.asleep, self._release = True, threading.Event()
        threading.Thread(target=_hold_threads, args=(self._release,), name="held", daemon=True).start()

    def _spin(self) -> None:
        self.asleep = False
        self._release.set()


def _hold_threads(release: threading.Event) -> None:
    """Have libgomp's threads of one more parallel region, until released."""
    import torch

    torch.ones(2**17).add_(1)  # more than one thread's share
    release.wait()
