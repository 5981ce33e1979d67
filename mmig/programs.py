"""What the command lines have in common: how errors end, and option types. Nothing heavy is imported, for --help."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def one_line_errors(*more: type[Exception]) -> Iterator[None]:
    """End what a user can mend in one line, not in a traceback (MMIG_TRACEBACK=1 shows it).

    Args:
        more: kinds of error beside ValueError and OSError.
    """
    try:
        yield
    except (ValueError, OSError, *more) as error:
        if os.environ.get("MMIG_TRACEBACK"):
            raise
        sys.exit(f"error: {root_cause(error)}")


def root_cause(error: BaseException) -> BaseException:
    """The error of this repository behind one of the parser's, which wraps what a constructor raises in many lines."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__module__.startswith(("mmig.", "datamodules.")):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def positive(text: str) -> int:
    """Option type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return value
