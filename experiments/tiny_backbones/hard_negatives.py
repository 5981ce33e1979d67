"""Captions that are wrong by one word: two colours exchanged, or a place replaced by another.

Pure functions of strings. Which words may stand for each other comes from the caller, so nothing here knows a world.
"""

import random
import re
from collections.abc import Mapping, Sequence


def wrong_caption(text: str, groups: Mapping[str, Sequence[str]], seed: int) -> str:
    """A caption that differs from `text` by words of one group, or "" where no group has a word in it.

    With two different words of the group in the text they change places ("a red ball and a blue box" -> "a blue ball
    and a red box"); with one, it becomes another word of the group.

    Args:
        text: the right caption.
        groups: words that exclude each other, by name (colours, places); longer phrases are matched first.
        seed: decides group and words.
    """
    chooser = random.Random(seed)
    found = {name: _present(text, words) for name, words in groups.items()}
    usable = [name for name, words in found.items() if words]
    if not usable:
        return ""
    name = chooser.choice(usable)
    present = found[name]
    if len(present) >= 2:
        first, second = chooser.sample(present, 2)
    else:
        first, second = present[0], chooser.choice([word for word in groups[name] if word != present[0]])
    return _exchange(text, groups[name], {first: second, second: first})


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(r"\b(" + "|".join(map(re.escape, longest_first)) + r")\b")


def _present(text: str, words: Sequence[str]) -> list[str]:
    return sorted(set(_pattern(words).findall(text)))


def _exchange(text: str, words: Sequence[str], other: Mapping[str, str]) -> str:
    """Replace whole words of the group; matching all of them keeps "at the top" apart from "at the top left"."""
    return _pattern(words).sub(lambda match: other.get(match.group(1), match.group(1)), text)
