"""What the command lines have in common: how errors end, option types. Nothing heavy is imported, for --help."""

import argparse
import contextlib
import ctypes
import io
import os
import sys
from collections.abc import Iterator

_OWN = ("mmig.", "datamodules.", "experiments.")


@contextlib.contextmanager
def one_line_errors(*more: type[Exception]) -> Iterator[None]:
    """End what a user can mend in one line, not in a traceback (MMIG_TRACEBACK=1 shows it), and print any text.

    Args:
        more: kinds of error beside ValueError and OSError.
    """
    printable_output()
    try:
        yield
    except (ValueError, OSError, *more) as error:
        if os.environ.get("MMIG_TRACEBACK"):
            raise
        sys.exit(f"error: {root_cause(error)}")


def printable_output() -> None:
    """Let standard output escape characters that the terminal cannot show, as standard error does by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def root_cause(error: BaseException) -> BaseException:
    """The error of this repository behind one of the parser's, which wraps what a constructor raises in many lines."""
    cause: BaseException | None = error
    while cause is not None:
        if any(module.startswith(_OWN) for module in (type(cause).__module__, _raised_in(cause))):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def _raised_in(error: BaseException) -> str:
    """The module that raised an error."""
    module, trace = "", error.__traceback__
    while trace is not None:
        module, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return module


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of any size for what comes next; does nothing with another C library.

    Otherwise it gives each batch of images back to the system and fetches the same pages again
    (`bench/stream.py --keep-memory`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # M_TRIM_THRESHOLD and so on in glibc's malloc.h
    for option, size in ((trim_threshold, 2**31 - 1), (top_pad, 2**28), (mmap_threshold, 2**31 - 1)):
        if mallopt is not None:
            mallopt(option, size)


def positive(text: str) -> int:
    """Option type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return value
