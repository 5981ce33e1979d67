"""Where every rank of a run hangs: stack traces of this process and of the others on its host, in files.

Each rank has `rankN.txt` in a folder that all share. A process is asked for its trace by a signal that faulthandler
answers without the interpreter's help, so that it is there also when the process is stuck in a library.
"""

import contextlib
import faulthandler
import os
import signal
import socket
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from mmig.base.processes import process_start

TRACE_SIGNAL = signal.SIGRTMIN + 3
"""Writes the stack trace of the process that gets it."""
COLLECTIVES = ".collectives.pickle"
_END = "end of the report\n"


class Peer(NamedTuple):
    """A rank and the process that it runs in."""

    rank: int
    host: str
    pid: int
    started: str | None


class StackTraces:
    """This rank's file of traces, and what is known of the other ranks.

    Args:
        directory: the folder of all files.
        rank: number of this rank.
        grace_seconds: how long the other processes of the host have to write their reports; after it they are killed.
    """

    def __init__(self, directory: Path, rank: int, grace_seconds: float) -> None:
        self.directory, self.rank, self.grace_seconds = directory, rank, grace_seconds
        self.peers: list[Peer] = []
        directory.mkdir(parents=True, exist_ok=True)
        self._put_away()
        self._file = self._path(rank).open("a")
        faulthandler.register(TRACE_SIGNAL, self._file, all_threads=True)

    def meet(self) -> None:
        """Learn where the other ranks run; every rank must call it."""
        own = Peer(self.rank, socket.gethostname(), os.getpid(), process_start(os.getpid()))
        everyone: list[Peer | None] = [own]
        if dist.is_available() and dist.is_initialized():
            everyone = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, own)
        self.peers = [peer for peer in everyone if peer is not None and peer.rank != self.rank]

    def report(self, reason: str) -> None:
        """Write why and where this process hangs, with its collective operations; then have the neighbours do so."""
        self._file.write(f"{reason}\n")
        self._file.flush()
        faulthandler.dump_traceback(self._file, all_threads=True)
        self._write_collectives()
        self._file.write(_END)
        self._file.flush()
        neighbours = [peer for peer in self.peers if _lives(peer)]
        for peer in neighbours:
            _send(peer, signal.SIGCONT)  # one that is stopped could not answer
            _send(peer, TRACE_SIGNAL)
        deadline = time.monotonic() + self.grace_seconds
        while time.monotonic() < deadline and not all(self._has_ended(peer) for peer in neighbours):
            time.sleep(0.1)
        for peer in neighbours:
            if not self._has_ended(peer):
                _send(peer, signal.SIGKILL)

    def close(self) -> None:
        """Stop listening, and leave no empty file behind."""
        faulthandler.unregister(TRACE_SIGNAL)
        self._file.close()
        with contextlib.suppress(OSError):
            if self._path(self.rank).stat().st_size == 0:
                self._path(self.rank).unlink()
                self.directory.rmdir()  # only if it was the last one

    def _put_away(self) -> None:
        """Give what an earlier submission of the run has left the time of its writing as a name."""
        for path in (self._path(self.rank), self._path(self.rank).with_suffix(COLLECTIVES)):
            if path.exists():
                written = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
                path.rename(path.with_name(f"{written}.{path.name}"))

    def _path(self, rank: int) -> Path:
        return self.directory / f"rank{rank}.txt"

    def _has_ended(self, peer: Peer) -> bool:
        """Whether a neighbour is gone, or has written its own report and goes by itself."""
        if not _lives(peer):
            return True
        with contextlib.suppress(OSError):
            return self._path(peer.rank).read_text(errors="replace").endswith(_END)
        return False

    def _write_collectives(self) -> None:
        """The flight recorder's memory, a pickle that torch's own tools read; see `watchdog.flight_recorder`."""
        if not dist.is_available() or not dist.is_initialized():
            return
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dump = torch._C._distributed_c10d._dump_fr_trace(backend=backend)
        self._path(self.rank).with_suffix(COLLECTIVES).write_bytes(dump)


def _lives(peer: Peer) -> bool:
    """Whether a rank runs on this host."""
    return peer.host == socket.gethostname() and process_start(peer.pid) == peer.started is not None


def _send(peer: Peer, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(peer.pid, number)
