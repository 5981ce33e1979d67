"""Texts that are longer than what reads them: said in one line, never cut without a word."""

from collections.abc import Iterable
from typing import NamedTuple


class CutText(NamedTuple):
    """A text of which only the beginning is read.

    Attributes:
        name: what it is, a field of the batch.
        reader: what reads it, in words.
        tokens: that it has.
        read: how many of them are read, from the first on.
    """

    name: str
    reader: str
    tokens: int
    read: int

    def __str__(self) -> str:
        """One line."""
        read = f"of which the {self.reader} reads {self.read}"
        return f"{self.name}: {self.tokens} tokens, {read}: what follows has no effect"


def cut_texts(name: str, reader: str, lengths: Iterable[int], room: int) -> list[list[CutText]]:
    """For each of several texts a list: what is cut of it, or nothing.

    Args:
        name, reader: see `CutText`.
        lengths: tokens of each text.
        room: tokens that are read.
    """
    return [[CutText(name, reader, length, room)] if length > room else [] for length in lengths]


def joined(*lists: list[list[CutText]]) -> list[list[CutText]]:
    """Several such lists of the same samples as one."""
    return [[cut for part in parts for cut in part] for parts in zip(*lists, strict=True)]
