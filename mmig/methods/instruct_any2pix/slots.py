"""Instructions as pieces of text with slots between them, in which vectors take the place of words (A3).

A slot stands for an attached picture or sound, for the picture to edit, or for words that a marked instruction of MM-
Inst puts in brackets, whose vector the prior makes (Li et al. 2023, section 3.4.3).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from datamodules.schema import placeholders

SOURCE, CONVERTED = -1, -2
"""Numbers of slots that are no attachments: the source, and words that become a vector."""
MARKED = "marked"
"""Entry of a sample's metadata: {"instruction": with brackets, "base": the bracket that is the picture to edit}."""
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")


class Slot(NamedTuple):
    """A place of one vector.

    Attributes:
        number: of the attachment, or `SOURCE` or `CONVERTED`.
        words: of a converted slot.
    """

    number: int
    words: str = ""


Pieces = list[str | Slot]


class InstructionError(ValueError):
    """An instruction that cannot be read; one line says why."""


def pieces_of(batch: Mapping[str, Any], row: int, convert: Callable[[int], bool] = lambda number: True) -> Pieces:
    """The instruction of a sample, as the language model reads it.

    Pictures and sounds stand where their placeholders do. What is attached but not mentioned, and a source that is no
    attachment, stand before the text. A marked instruction has its source in the bracket that is the base, and the
    words of the others where `convert` says so.

    Args:
        batch: see `datamodules.schema.Batch`.
        row: which sample.
        convert: whether the bracket of this number, counted from 0, becomes a slot.

    Raises:
        InstructionError: a placeholder of no attachment.
    """
    marked = batch["metadata"][row].get(MARKED) if "metadata" in batch else None
    if marked:
        found = _marked(marked, bool(batch["has_source"][row]), convert)
    else:
        found = _with_placeholders(batch["instruction"][row], batch["attachment_kinds"][row], batch["key"][row])
    mentioned = {piece.number for piece in found if isinstance(piece, Slot)}
    before = [Slot(number) for number, kind in enumerate(batch["attachment_kinds"][row]) if kind]
    if batch["has_source"][row] and "base" not in batch["attachment_roles"][row]:
        before.insert(0, Slot(SOURCE))
    unsaid = [slot for slot in before if slot.number not in mentioned]
    return [*unsaid, *(["\n"] if unsaid else []), *found]


def base_number(batch: Mapping[str, Any], row: int) -> int | None:
    """Slot of the picture to edit as the data say it: the attachment of that role, the source, else the only picture;
    None where there is none of these.
    """
    roles, kinds = batch["attachment_roles"][row], batch["attachment_kinds"][row]
    if "base" in roles:
        return roles.index("base")
    if batch["has_source"][row]:
        return SOURCE
    return kinds.index("image") if kinds.count("image") == 1 else None


def slots_in(pieces: Pieces) -> list[Slot]:
    """The slots, in their order."""
    return [piece for piece in pieces if isinstance(piece, Slot)]


def without_brackets(marked: str) -> str:
    """A marked instruction as plain text."""
    return _BRACKETS.sub(r"\1", marked)


def bracketed(marked: str) -> list[str]:
    """What stands in the brackets of a marked instruction, in its order."""
    return _BRACKETS.findall(marked)


def _with_placeholders(text: str, kinds: Sequence[str], key: str) -> Pieces:
    pieces: Pieces = []
    last = 0
    for found in placeholders(text):
        if found.number >= len(kinds) or kinds[found.number] != found.kind:
            raise InstructionError(
                f"sample {key!r}: <{found.kind}:{found.number}> stands for no attached {found.kind}; "
                f"expected one of {len(kinds)} attachments ({', '.join(kinds) or 'none'})"
            )
        pieces += [text[last : found.start], Slot(found.number)]
        last = found.end
    return [piece for piece in [*pieces, text[last:]] if piece]


def _marked(marked: Mapping[str, str], has_source: bool, convert: Callable[[int], bool]) -> Pieces:
    pieces: Pieces = []
    parts = _BRACKETS.split(marked["instruction"])
    for place, part in enumerate(parts):
        if place % 2 == 0:
            pieces.append(part)
        elif part == marked["base"] and has_source:
            pieces.append(Slot(SOURCE))
        else:
            pieces.append(Slot(CONVERTED, part) if convert(place // 2) else part)
    return [piece for piece in pieces if piece]
