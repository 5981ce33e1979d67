"""A file that one process holds at a time, as long as it lives."""

import errno
import fcntl
import os
from pathlib import Path


class HeldError(Exception):
    """Another process holds the lock."""


def hold(path: Path) -> int:
    """Lock a file, made where it is not there; `os.close` of the result lets others in, as the end of the process does.

    A child that outlives this process holds nothing. On a file system without locks nobody is kept out.

    Raises:
        HeldError: another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            os.close(held)
            raise HeldError(path) from error
    return held
