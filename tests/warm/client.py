"""Runs a program by the server and ends as it ends: `python -IS client.py SOCKET PYTHON [-u] FILE|-m MODULE ...`."""

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def main(address: str, interpreter: str, *words: str) -> None:
    """Ask, pass signals on, and take over the exit status; what cannot begin warm becomes the real interpreter."""
    asked = {"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        # the end of the connection is that of the program: should this process be killed, the server kills its fork
        socket.send_fds(connection, [b"0"], [0, 1, 2])
        answers = connection.makefile("rw")
        answers.write(f"{json.dumps(asked)}\n")
        answers.flush()
        pid = int(answers.readline())
        if pid == 0:
            os.execv(interpreter, [interpreter, *words])
        for number in FORWARDED:
            signal.signal(number, lambda number, frame: os.kill(pid, number))
        status = int(answers.readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
