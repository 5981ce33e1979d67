"""How the programs of this package read their options, print and end."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import sys
from collections.abc import Iterator
from typing import Any, NoReturn


class OptionParser(argparse.ArgumentParser):
    """Takes options by their whole names alone, and names the nearest ones to those that it does not know."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Usage, and the reason in one line; exit status 2."""
        if message.startswith("unrecognized arguments:"):
            message = " ".join(_with_nearest(word, list(_options(self))) for word in message.split())
        super().error(message)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """End Ctrl-C in one line, with the status of shells for it, not in a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def printable_output() -> None:
    """Let standard output escape characters that the terminal cannot show, as standard error does by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Options of a parser and of its subcommands."""
    yield from parser._option_string_actions
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _options(subparser)


def _with_nearest(word: str, known: list[str]) -> str:
    """A word, and the option that was meant if it is like one."""
    name = word.split("=")[0].replace("_", "-")
    begun = [option for option in known if option.startswith(name)]
    close = [*begun[:1], *difflib.get_close_matches(name, known, n=1)] if name.startswith("--") else []
    return f"{word} (did you mean {close[0]}?)" if close else word
