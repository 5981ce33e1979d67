"""What the command lines print, on any terminal."""

import io
import sys


def printable_output() -> None:
    """Let standard output escape characters that the terminal cannot show, as standard error does by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
