"""Forks Python programs that begin warm: what takes seconds to import is imported once: `python server.py FD PROGRAM`.

Nothing of this repository is imported here: each program finds that by itself, a copy of it runs its own code. FD is a
socket that listens, PROGRAM what stands in the place of `sys.executable`. The server ends with its standard input.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NamedTuple, NoReturn

IMPORTED = (
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "lightning.pytorch.cli",
    "open_clip",
    "peft",
    "s3fs",
    "torch.utils.tensorboard",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "webdataset",
)
"""What programs of this repository import, and takes them seconds."""
EARLY = ("DIFFUSERS_", "HF_", "HOME", "LANG", "LC_", "MKL_", "OMP_", "PYTHON", "TRANSFORMERS_", "XDG_")
"""Beginnings of the names of variables that are read when libraries are imported."""


class Program(NamedTuple):
    """A program that is asked for: words after the interpreter's name, folder, environment, and its three streams."""

    words: list[str]
    folder: str
    environment: dict[str, str]
    streams: list[int]


def receive(connection: socket.socket) -> Program | None:
    """Read what is asked for; None where whoever asked was killed meanwhile."""
    streams: list[int] = []
    with contextlib.suppress(OSError), connection.makefile("r") as lines:
        _, streams, _, _ = socket.recv_fds(connection, 1, 3)
        if (line := lines.readline()).endswith("\n"):
            return Program(**json.loads(line), streams=streams)
    for stream in streams:
        os.close(stream)
    return None


def can_be_warm(program: Program) -> bool:
    """Whether the imports would have been the same for it."""
    first = [word for word in program.words if word != "-u"][:1]
    early, own = (
        {name: value for name, value in found.items() if name.startswith(EARLY)}
        for found in (program.environment, os.environ)
    )
    return bool(first) and (first == ["-m"] or not first[0].startswith("-")) and early == own


class Server:
    """Forks what is asked for and tells who asked how it ended."""

    def __init__(self, asked: socket.socket) -> None:
        self.asked, self.waiting = asked, selectors.DefaultSelector()
        self.running: dict[int, tuple[socket.socket, int]] = {}  # by process id: who asked, and what tells its end
        self.waiting.register(asked, selectors.EVENT_READ)
        self.waiting.register(sys.stdin, selectors.EVENT_READ)

    def serve(self) -> Program:
        """Serve until the end of standard input; returns in the forks alone."""
        while True:
            for key, _ in self.waiting.select():
                if key.fileobj is sys.stdin:
                    sys.exit()
                elif key.fileobj is self.asked:
                    if (program := self.begin(self.asked.accept()[0])) is not None:
                        return program
                elif key.data in self.running:
                    self.end(key.data, killed=key.fileobj is self.running[key.data][0])

    def begin(self, connection: socket.socket) -> Program | None:
        """Fork, or say 0 where the program has to begin cold; the fork gets the program."""
        if (program := receive(connection)) is None:
            connection.close()
            return None
        warm = can_be_warm(program)
        pid = os.fork() if warm else 0
        if warm and pid == 0:
            self.close(connection)
            return program
        for stream in program.streams:
            os.close(stream)
        with contextlib.suppress(OSError):  # who is gone is seen to below
            connection.sendall(f"{pid}\n".encode())
        if warm:
            self.running[pid] = connection, os.pidfd_open(pid)
            for source in self.running[pid]:
                self.waiting.register(source, selectors.EVENT_READ, pid)
        else:
            connection.close()
        return None

    def end(self, pid: int, killed: bool) -> None:
        """Reap a program, which may have to be killed: whoever asked is gone."""
        connection, ended = self.running.pop(pid)
        if killed:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        for source in (connection, ended):
            self.waiting.unregister(source)
        with contextlib.suppress(OSError):
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        connection.close()
        os.close(ended)

    def close(self, connection: socket.socket) -> None:
        """Leave nothing of the server open in a fork."""
        for other, ended in self.running.values():
            other.close()
            os.close(ended)
        self.waiting.close()
        self.asked.close()
        connection.close()


def become(program: Program, executable: str) -> None:
    """Be the program, in a fork; never returns."""

    def run() -> None:
        _move_in(program)
        sys.executable = executable
        _settle()
        _run(program)

    end_with(run)


def end_with(run: Callable[[], object]) -> NoReturn:
    """Do what is left to do in this fork, and end it as the interpreter ends any program."""
    status = 1
    try:
        run()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001, it ends here
        traceback.print_exc()
    finally:
        # what the interpreter does too; to take all objects apart as well would cost a fork seconds
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status & 0xFF)


def _move_in(program: Program) -> None:
    """Streams, folder and environment."""
    for number, stream in enumerate(program.streams):
        os.dup2(stream, number)
        os.close(stream)
    # those of the server know what it was given: files or pipes
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(program.folder)
    os.environ.clear()
    os.environ.update(program.environment)
    importlib.invalidate_caches()


def _run(program: Program) -> None:
    words = program.words
    if words[0] == "-u" or os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
        words = words[words[0] == "-u" :]
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], program.folder
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [*words], os.path.dirname(os.path.realpath(words[0]))
        runpy.run_path(words[0], run_name="__main__")


def _settle() -> None:
    """What libraries leave to the first use, in a fork that has one thread."""
    import numpy as np
    import torch

    # torch makes its thread pool anew in a fork, without a lock: before there are other threads that would do it too
    torch.set_num_threads(torch.get_num_threads())
    np.random.seed()  # otherwise the same in all forks


def main() -> None:
    """Import, then serve; in a fork, become what is asked for."""
    asked, executable = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    for name in IMPORTED:
        importlib.import_module(name)
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        sys.exit(f"{threads} threads after the imports: a fork would have only one of them, and all their locks")
    gc.freeze()  # pages of what is imported stay shared
    become(Server(asked).serve(), executable)


if __name__ == "__main__":
    main()
