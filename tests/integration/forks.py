"""Ranks of a training as forks of the test, which has imported everything: a start takes a second instead of ten.

Apart from that each is what srun would start: a process that runs the command line of train.py.
"""

import atexit
import contextlib
import multiprocessing.util
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mmig.run.cli import main
from tests.warm.server import end_with


def fork_ranks(
    arguments: list[str], num_ranks: int, log: Path, prepare: Callable[[], object] | None = None
) -> list[int]:
    """Run a command line of train.py in so many forks, which are a process group; returns their process ids.

    Args:
        log: file to which all their output is added.
        prepare: called in each rank before it begins.
    """
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
    pids: list[int] = []
    for rank in range(num_ranks):
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(PermissionError):  # the parent may have done it already
                os.setpgid(0, pids[0] if pids else 0)
            _rank(arguments, {**environment, "LOCAL_RANK": str(rank)}, log, prepare)
        pids.append(pid)
        with contextlib.suppress(PermissionError, ProcessLookupError):  # the rank may have done it, or be gone already
            os.setpgid(pid, pids[0])
    return pids


def wait_for_end(pids: list[int], seconds: float) -> list[int] | None:
    """Exit statuses of `fork_ranks` once no process of the group is left; None, and all are killed, if that is late."""
    deadline, left, statuses = time.monotonic() + seconds, list(pids), {}
    while left or _lives(pids[0]):
        if time.monotonic() > deadline:
            os.killpg(pids[0], signal.SIGKILL)
            for pid in left:
                os.waitpid(pid, 0)
            return None
        for pid in list(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                statuses[pid] = os.waitstatus_to_exitcode(status)
                left.remove(pid)
        time.sleep(0.005)
    return [statuses[pid] for pid in pids]


def _rank(arguments: list[str], environment: dict[str, str], log: Path, prepare: Callable[[], object] | None) -> None:
    """Run train.py's command line in this fork and end as a program does; never returns."""
    atexit._clear()  # what the parent would do at its own end, such as removing folders, is not ours to do
    atexit.register(multiprocessing.util._exit_function)
    # torch makes its thread pool anew in a fork, without a lock: before there are other threads that would do it too
    torch.set_num_threads(torch.get_num_threads())

    def run() -> None:
        os.environ.update(environment)
        sys.stdout = sys.stderr = file = log.open("a", buffering=1)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.argv = ["train.py", *arguments]
        if prepare is not None:
            prepare()
        main(arguments)

    end_with(run)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
