"""`<image:k>` and `<audio:k>` in a text: where they stand, which word each is bound to, and the text without them.

The number k is that of the attachment that a placeholder stands for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Span = tuple[int, int]
"""First character and the one behind the last."""
PLACEHOLDER_FIELDS: tuple[str, ...] = ("instruction", "target_caption")
"""Text fields in which placeholders mean something; elsewhere they are text like any other."""
_PLACEHOLDER = re.compile(r"<(image|audio):([0-9]{1,9})>")
_WORD = re.compile(r" ?(\w+(?:['’-]\w+)*)")
_OPENING, _CLOSING = "([{«“\"'", ".,;!?)]}»”\"'"


@dataclass(frozen=True)
class Placeholder:
    """One placeholder of a text.

    Attributes:
        kind: "image" or "audio". number: k.
        start, end: its own characters in the text.
        word: characters of the word directly behind it (at most one blank between), None where it stands alone.
    """

    kind: str
    number: int
    start: int
    end: int
    word: Span | None


def placeholders(text: str) -> list[Placeholder]:
    """The placeholders of a text, in its order."""
    found = []
    for match in _PLACEHOLDER.finditer(text):
        word = _WORD.match(text, match.end())
        found.append(Placeholder(match[1], int(match[2]), *match.span(), word and word.span(1)))
    return found


def without_placeholders(text: str) -> str:
    """The text for encoders that know no placeholders: "a <image:0> dog" becomes "a dog"."""
    return without_placeholders_but_words(text, [])[0]


def without_placeholders_but_words(text: str, words: list[Span | None]) -> tuple[str, list[Span | None]]:
    """The text without placeholders, and where words of it are then; None for those of which nothing is left."""
    cuts = list(_cuts(text))
    if not cuts:
        return text, words
    starts, ends = [0, *(end for _, end, _ in cuts)], [*(start for start, _, _ in cuts), len(text)]
    joints = ["", *(joint for _, _, joint in cuts)]
    kept = "".join(joint + text[start:end] for joint, start, end in zip(joints, starts, ends, strict=True))

    def moved(place: int, at_end: bool) -> int:
        new = 0
        for joint, start, end in zip(joints, starts, ends, strict=True):
            if at_end and place < start:
                return new
            new += len(joint)
            if place <= end if at_end else place < end:
                return new + max(0, place - start)
            new += end - start
        return new

    spans = [span and (moved(span[0], False), moved(span[1], True)) for span in words]
    return kept, [span if span and span[0] < span[1] else None for span in spans]


def _cuts(text: str) -> Iterator[tuple[int, int, str]]:
    """What to leave out of a text, blanks around it included, and what to put there: (start, end, joint)."""
    runs: list[Span] = []
    for match in _PLACEHOLDER.finditer(text):
        if runs and not text[runs[-1][1] : match.start()].strip():  # nothing but blanks between two of them
            runs[-1] = runs[-1][0], match.end()
        else:
            runs.append(match.span())
    for start, end in runs:
        first, last = start, end
        while first and text[first - 1].isspace():
            first -= 1
        while last < len(text) and text[last].isspace():
            last += 1
        before, behind = text[max(0, first - 1) : first], text[last : last + 1]
        yield first, last, _joint(before, text[first:start], text[end:last], behind)


def _joint(before: str, blanks_before: str, blanks_behind: str, behind: str) -> str:
    """What keeps two parts of a text apart: a line break, one side's blanks, or a blank; nothing at ends and marks."""
    if not before or not behind or behind in _CLOSING or (not blanks_before and before in _OPENING):
        return ""
    blanks = (blanks_before, blanks_behind)
    return next((side for side in blanks if "\n" in side), blanks_before or blanks_behind or " ")
