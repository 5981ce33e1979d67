"""What the command lines have in common: how errors end, option types. Nothing heavy is imported, for --help."""

import argparse
import contextlib
import ctypes
import difflib
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, NoReturn

_OWN = ("mmig.", "datamodules.", "experiments.")
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells say it."""


class OptionParser(argparse.ArgumentParser):
    """Takes options by their whole names alone, and names the nearest ones to those that it does not know.

    An option of several values may be given several times: `--grid alpha=0,1 --grid beta=0,1` is both of them.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        self.register("action", None, _Store)
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As the parent; remembers what was given, for what it may miss is an option that is spelled otherwise."""
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Usage, and the reason in one line; exit status 2."""
        known = set(_options(self))
        unknown = [arg for arg in self._given if arg.startswith("--") and arg.split("=")[0] not in known | {"--"}]
        if message.startswith("unrecognized arguments:"):
            message = unknown_options(message, known)
        elif unknown and "required" in message:
            message += f"; {unknown_options(f'unrecognized arguments: {unknown[0]}', known)}"
        super().error(message)


class _Store(argparse.Action):
    """Stores what was given, as argparse does; several values go behind those given before."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest, None)
        if isinstance(values, list) and isinstance(before, list) and before is not self.default:
            values = [*before, *values]
        setattr(namespace, self.dest, values)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Options of a parser and of its subcommands."""
    yield from parser._option_string_actions
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _options(subparser)


def unknown_options(message: str, known: Iterable[str]) -> str:
    """The parser's line about arguments that it does not know, with the nearest option to each of them."""
    known, words = list(known), message.partition(":")[2].split()
    hints = {word.split("=")[0]: nearest(word.split("=")[0], known) for word in words if word.startswith("--")}
    found = [f"{word} (did you mean {close}?)" if close else word for word, close in hints.items()]
    return f"unknown option {', '.join(found)}" if found else message


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like one; "" where none is. A last part alone, as max_steps, finds the whole."""

    def plain(text: str) -> str:
        return re.sub("[-_]", "", text).lower()

    by_plain = {plain(name): name for name in known}
    ends = [name for name in by_plain.values() if plain(name.rpartition(".")[2]) == plain(word)]
    begins = [name for name in by_plain.values() if plain(name).startswith(plain(word)) and plain(word)]
    close = difflib.get_close_matches(plain(word), list(by_plain), n=1)
    return next(iter([*ends, *begins[:1], *(by_plain[match] for match in close)]), "")


@contextlib.contextmanager
def one_line_errors(*more: type[Exception]) -> Iterator[None]:
    """End what a user can mend, or Ctrl-C, in one line, not in a traceback (MMIG_TRACEBACK=1 shows it); print any text.

    Args:
        more: kinds of error beside ValueError and OSError.
    """
    printable_output()
    try:
        yield
    except KeyboardInterrupt:
        _say_interrupted()
        sys.exit(INTERRUPTED)
    except (ValueError, OSError, *more) as error:
        if os.environ.get("MMIG_TRACEBACK"):
            raise
        sys.exit(f"error: {root_cause(error)}")


def end_in_one_line() -> None:
    """Say Ctrl-C in one line outside of `one_line_errors` too, while a program is still being imported."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            _say_interrupted()
        else:
            before(kind, error, trace)

    sys.excepthook = hook


def _say_interrupted() -> None:
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write("interrupted\n")


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


def natural(text: str) -> int:
    """Option type: a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, found {text}")
    return value


def positive(text: str) -> int:
    """Option type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return value
