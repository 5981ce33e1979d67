"""An interpreter for tests that start programs: a fork that has imported torch and the like begins in a moment."""

import atexit
import functools
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = dict(os.environ)
"""That of the whole run: the test that asks first may have changed its own."""


@functools.cache
def python() -> str:
    """Path of a program to use in the place of `sys.executable`; the server behind it starts with the first call.

    It takes `[-u] FILE ...` and `[-u] -m MODULE ...`; each runs in a process of its own with its own folder,
    environment, streams, signals and exit status, and what it starts by `sys.executable` is warm too. Everything else
    (`-c`, other options, an environment that changes what is read at imports) is given to the real interpreter. Tests
    of a start itself, of imports, of process groups and of what kills them take `sys.executable`.
    """
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address, program = folder / "socket", folder / "python"
    words = [sys.executable, "-IS", str(HERE / "client.py"), str(address), sys.executable]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as asked:
        asked.bind(str(address))
        asked.listen(64)  # whoever asks before the imports are done waits
        server = [sys.executable, str(HERE / "server.py"), str(asked.fileno()), str(program)]
        lifeline = subprocess.Popen(server, pass_fds=[asked.fileno()], stdin=subprocess.PIPE, env=ENVIRONMENT)
    atexit.register(_end, lifeline)
    return str(program)


def _end(server: subprocess.Popen[bytes]) -> None:
    """Its standard input ends, and so does the server."""
    server.stdin.close()
    server.wait()
