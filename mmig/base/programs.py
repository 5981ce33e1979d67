"""What the command lines have in common: how errors end, and option types. Nothing heavy is imported, for --help."""

import argparse
import contextlib
import ctypes
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

_KEY, _CLASS = re.compile(r'Parser key "([\w.]+)":\s*(.*)'), re.compile(r"- Problem with given class_path '([\w.]+)':")
_FRAME = re.compile(r"(- )?(Does not validate|Subtypes:|Errors:|Expected a path but|Expected a <class 'NoneType'>)")
_OWN = ("mmig.", "datamodules.", "experiments.")
_UNKNOWN = re.compile(r"(Option|Key) '[\w.]+' is not")


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


class RefusedSettingsError(ValueError):
    """A class_path or argument that does not exist, or a value of another kind; one line."""


def instantiate(base: type, section: Mapping[str, Any]) -> Any:
    """An object of a subclass of `base` from class_path and init_args.

    Raises:
        RefusedSettingsError: it names what cannot be used. Errors of the class itself pass as they are.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "settings", required=True)
    try:
        parsed = parser.parse_object({"settings": dict(section)})
    except ArgumentError as error:
        raise RefusedSettingsError(refusal(str(error)).removeprefix("settings").lstrip(" :")) from error
    return parser.instantiate(parsed).settings


def refusal(message: str) -> str:
    """One line of a jsonargparse message: the key as a path, the class that refused it, and the first real reason."""
    path: list[str] = []
    refused = reason = ""
    for line in (line.strip() for line in message.splitlines()):
        if key := _KEY.match(line):
            path.append(key[1])
            reason = key[2]
        elif found := _CLASS.match(line):
            refused = found[1]
        elif line and not _FRAME.match(line):
            reason = line
        if reason:
            break
    where = ".".join(path) + (f" ({refused})" if refused else "")
    known = f"; it has {', '.join(_arguments(refused))}" if refused and _UNKNOWN.match(reason) else ""
    return (f"{where}: " if where else "") + (reason or message) + known


def _arguments(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


def positive(text: str) -> int:
    """Option type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return value
