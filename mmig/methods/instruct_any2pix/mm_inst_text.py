"""MM-Inst's instructions as text (Li et al. 2023, sections 3.4.3 and 9.1.2): what a language model is asked, and which
of its answers count. No model is used here.

The worked examples and the order of the sentences follow tables 3 and 4 of the paper.
"""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from mmig.methods.instruct_any2pix.slots import bracketed, without_brackets

OPERATIONS = ("add", "drop", "replace", "style", "atmosphere")
TWO_SHARE = 0.3
"""Of the instructions that ask for two operations; the paper says "one or more" and gives no weights."""
MOST_BRACKETS = 4
EXAMPLES = {
    "add": (
        "Please incorporate [an image of cannon fire] into [an image of a pirate ship sailing on the high sea]",
        "An image of a pirate ship firing its cannons on the high sea",
    ),
    "drop": (
        "Remove [sound of car accelerating] from [an image of people driving in the countryside road]",
        "An image of a quiet countryside road",
    ),
    "replace": (
        "Replace [sound of dog barking] with [sound of a cute cat] for [an image of a dog at the beach]",
        "An image of a cat at the beach",
    ),
    "style": (
        "Change [an image of a woman wearing sunglasses in Paris] to the style of [an image of a Renaissance painting]",
        "A Renaissance painting of a woman wearing sunglasses in Paris",
    ),
    "atmosphere": (
        "Make [an image of a girl in a school uniform] fit the atmosphere of [a piece of music of the stars]",
        "An image of a girl in a school uniform under the night sky",
    ),
}
"""One worked example an operation: a marked instruction, and the caption of its result."""
QUESTION = """I need to write multi-modal editing operations. Here are some examples:

{examples}

In summary, operations add, drop or replace subjects, transfer a style, or fit a picture to an atmosphere. Pictures and
sounds stand in brackets, described in words.
Please write one more, after these examples. The base caption is [{caption}]; always use it, in brackets, word for word.
I need one example of {operations} and nothing behind it. Keep the exact format, in two lines: Instruction and Result.
The edit should fit the scene; it should not be random, such as a rainbow in everything."""
REASONS = {
    "no_instruction": "the answer has no line that begins with Instruction:",
    "no_result": "the answer has no line that begins with Result:, or nothing behind it",
    "unbalanced": "brackets that are not closed, not opened, or inside of others",
    "base_absent": "the base caption is in no bracket, word for word",
    "too_many": f"more than {MOST_BRACKETS} brackets",
    "empty": "a bracket with nothing in it",
    "unchanged": "the result is the base caption",
}
"""Why an answer is refused, in the order in which it is asked."""
_INSTRUCTION = re.compile(r"^\W*instruction\W*:[ \t*]*(.*)$", re.IGNORECASE | re.MULTILINE)
_RESULT = re.compile(r"^\W*result\W*:[ \t*]*(.*)$", re.IGNORECASE | re.MULTILINE)


class Parsed(NamedTuple):
    """An answer read.

    Attributes:
        marked: the instruction with brackets.
        result: caption of what comes of it.
    """

    marked: str
    result: str

    @property
    def plain(self) -> str:
        """The instruction without brackets."""
        return without_brackets(self.marked)


class Refused(NamedTuple):
    """Why an answer does not count: a key of `REASONS`, and the same of this one in words."""

    reason: str
    detail: str


def operations_of(seed: int) -> tuple[str, ...]:
    """One operation, or two different ones, all equally likely, by a seed."""
    source = random.Random(seed)
    return tuple(source.sample(OPERATIONS, 2 if source.random() < TWO_SHARE else 1))


def question(caption: str, operations: Sequence[str]) -> str:
    """What is asked about a caption.

    Args:
        caption: of the picture to edit, without brackets (`as_base`).
        operations: of `OPERATIONS`.
    """
    examples = "\n\n".join(f"Instruction: {asked}\nResult: {result}" for asked, result in EXAMPLES.values())
    return QUESTION.format(examples=examples, caption=caption, operations=" and ".join(operations))


def as_base(caption: str) -> str:
    """A caption as it can stand in a bracket: no brackets of its own, single blanks, no full stop behind it."""
    return " ".join(caption.replace("[", " ").replace("]", " ").split()).rstrip(".")


def parse(answer: str, base: str) -> Parsed | Refused:
    """An answer as instruction and result, or the first rule that refuses it.

    Args:
        answer: as the model wrote it; what stands around the two lines is left out.
        base: the caption that was asked about.
    """
    asked, told = _INSTRUCTION.search(answer), _RESULT.search(answer)
    if asked is None or not asked[1].strip():
        return _refused("no_instruction", answer)
    if told is None or not told[1].strip():
        return _refused("no_result", answer)
    marked, result = " ".join(asked[1].split()), " ".join(told[1].split()).strip("[] ")
    if not _balanced(marked):
        return _refused("unbalanced", marked)
    brackets = bracketed(marked)
    if base not in brackets:
        return _refused("base_absent", marked)
    if len(brackets) > MOST_BRACKETS:
        return _refused("too_many", marked)
    if not all(words.strip() for words in brackets):
        return _refused("empty", marked)
    if as_base(result).lower() == base.lower():
        return _refused("unchanged", result)
    return Parsed(marked, result)


def _balanced(text: str) -> bool:
    """Whether every bracket is closed before the next one opens."""
    return re.sub(r"[^\[\]]", "", text) == "[]" * text.count("[")


def _refused(reason: str, text: str) -> Refused:
    return Refused(reason, f"{REASONS[reason]}: {text[:120]!r}")
