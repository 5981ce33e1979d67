"""Tags of a picture -> a caption that CLIP's text encoder reads whole: which tags, in which order, how many.

How many tokens a tag takes is asked of open_clip, whose vocabulary is that of CLIP ViT-L/14.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

MAX_TOKENS = 75
"""Of CLIP's 77, the first and the last are its marks of begin and end."""
_PEOPLE = re.compile(r"(\d+\+?|multiple_)(girl|boy|other)s?|solo|no_humans")
_WORD = re.compile(r"[^\W_]{2}")


class Tags(NamedTuple):
    """A picture's tags by Danbooru's categories, each as the site writes it (`long_hair`)."""

    general: tuple[str, ...] = ()
    artist: tuple[str, ...] = ()
    copyright: tuple[str, ...] = ()
    character: tuple[str, ...] = ()


class Caption(NamedTuple):
    """A caption, and how many tags found no place in it."""

    text: str
    tags_cut: int


def spoken(tag: str) -> str:
    """A tag as text: underscores are spaces, but for those of faces (`^_^`, `o_o`), in which no letters meet."""
    return tag.replace("_", " ") if _WORD.search(tag) else tag


class TagCaptions:
    """Makes captions.

    Attributes:
        frequency: on how many posts a tag is. artists: name them too.
    """

    def __init__(self, frequency: Mapping[str, int], artists: bool = False) -> None:
        self.frequency = frequency
        self.artists = artists

    def ordered(self, tags: Tags) -> list[str]:
        """How many people there are, characters, copyrights, artists if wanted, the rest; frequent ones first.

        Equally frequent ones go by name. A tag that is in two groups counts in the first.
        """
        people = [tag for tag in tags.general if _PEOPLE.fullmatch(tag)]
        groups = (people, tags.character, tags.copyright, tags.artist if self.artists else (), tags.general)
        return list(dict.fromkeys(tag for group in groups for tag in self._by_frequency(group)))

    def caption(self, tags: Tags) -> Caption:
        """The first tags in order, joined by commas, as many whole ones as `MAX_TOKENS` hold."""
        ordered = self.ordered(tags)
        kept = list(self._that_fit(map(spoken, ordered)))
        return Caption(", ".join(kept), len(ordered) - len(kept))

    def _that_fit(self, names: Iterable[str]) -> Iterator[str]:
        used = 0  # with a comma behind each: no token reaches over a space, so that parts add up
        for name in names:
            if used + _num_tokens(name) > MAX_TOKENS:
                return
            used += _num_tokens(f"{name},")
            yield name

    def _by_frequency(self, tags: Iterable[str]) -> list[str]:
        return sorted(tags, key=lambda tag: (-self.frequency.get(tag, 0), tag))


@cache
def _tokenizer() -> SimpleTokenizer:
    from open_clip.tokenizer import SimpleTokenizer  # takes seconds, and only the first process makes captions

    return SimpleTokenizer()


@cache
def _num_tokens(text: str) -> int:
    """CLIP's tokens of a text, its marks of begin and end not counted."""
    return len(_tokenizer().encode(text))
