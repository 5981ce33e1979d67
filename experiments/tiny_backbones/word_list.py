"""The words of the tiny tokenizers, in `words.txt`: those of all levels and planned worlds, and a reserve.

`python -m experiments.tiny_backbones.word_list` writes the file from the tables that the worlds' texts are made of and
from the lists here, so that no tokenizer depends on which samples were drawn, and no later word asks for new ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from datamodules.schema import ATTACHMENT_KINDS
from datamodules.tinyworld import (
    expressive,
    illustrations,
    inferable,
    instructions,
    photographs,
    scene,
    sound_samples,
    visual,
    words,
)
from experiments.tiny_backbones.prompt import NO_IMAGE, PROMPT_TEMPLATE
from mmig.base.commands import OptionParser
from mmig.base.files import write_text

WORDS_FILE = Path(__file__).with_name("words.txt")
PLACEHOLDERS = tuple(f"<{kind}:{number}>" for kind in ATTACHMENT_KINDS for number in range(4))
"""As many of each kind as a sample may have attachments by default."""
_WORD = re.compile(r"[A-Za-z]+")
_FIELD = re.compile(r"\{[^}]*\}")
_BARE = "words that also open a text or stand behind a mark"
_GLUE = (  # what functions say between the words of tables
    "a an the and with of on in at to from for without background black outline plain gradient shape bigger smaller"
)
_SENTENCES = """
    photo photograph picture image drawing painting sketch art cartoon rendering rendition sculpture doodle toy
    good bad clean dirty cool nice weird many one my close up cropped blurry low high resolution quality bright dark
    style question answer describe this will be if in show shows there do you see
"""
_RESERVE = {
    "numbers": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty zero first second third last both all none each every another other next",
    "directions": "left right up down above below under over behind between beside near far inside outside front back "
    "around across along away towards upper lower center middle here there north south east west corner side",
    "adjectives": "big bigger biggest small smaller smallest large larger largest tiny huge little tall short wide "
    "narrow thick thin long round flat sharp soft hard bright brighter dark darker light lighter pale deep dull shiny "
    "clear smooth rough new old young different same similar equal whole full empty single double simple plain "
    "colourful warm cold hot cool gold silver gray magenta turquoise violet lime teal transparent opaque blurred "
    "sharper softer higher lower closer further more less most least very much slightly bit only just again "
    "also not but or so",
    "verbs": "make add remove delete put place draw paint move shift turn change replace swap give take get keep set "
    "let bring use apply create insert fill cover hide show rotate flip mirror scale stretch shrink grow enlarge "
    "reduce increase decrease brighten darken sharpen blur soften smooth copy duplicate combine merge split cut crop "
    "align centre lift lower raise push pull drop open close start stop leave edit restore undo convert transform "
    "transfer match blend repeat adjust simplify restyle want should could please can need become becomes looks",
    "nouns": "object objects thing things scene figure pattern texture line lines border frame shadow size position "
    "place space top bottom row column group pair part foreground surface music noise tone sound sounds voice rest "
    "area winter summer spring autumn morning evening rain cloud clouds star heart arrow hexagon oval rectangle spiral "
    "pentagon octagon cube sphere cylinder cone",
}


class WordList(NamedTuple):
    """`words` and placeholders in the order of the file; `bare`: what needs an entry without a blank before it too."""

    words: tuple[str, ...]
    bare: tuple[str, ...]


def read_word_list(file: Path = WORDS_FILE) -> WordList:
    """The committed list: one word a line, `#` before the name of a section; the last section is that of bare words.

    Raises:
        ValueError: a line that is no word, or no section of bare words.
    """
    words: list[str] = []
    bare: list[str] | None = None
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#"):
            bare = [] if line == f"# {_BARE}" else bare
        elif not _WORD.fullmatch(line) and line not in PLACEHOLDERS:
            raise ValueError(f"{file}, line {number}: expected one word of letters or placeholder, found {line!r}")
        else:
            (words if bare is None else bare).append(line)
    if bare is None:
        raise ValueError(f"{file}: expected a section '# {_BARE}', found none; write it anew with word_list")
    return WordList(tuple(words), tuple(bare))


def sections() -> dict[str, list[str]]:
    """The words of each section, in order; one that an earlier section holds is not repeated."""
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for name, texts in _sources().items():
        new = sorted(words_of(texts) - seen)
        found[name] = new
        seen.update(new)
    return found


def words_of(texts: Iterable[str]) -> set[str]:
    """The words, runs of letters, of texts and of wordings whose {fields} are passed over."""
    return {word for text in texts for word in _WORD.findall(_FIELD.sub(" ", text))}


def bare_words() -> list[str]:
    """Words that open descriptions, phrases, instructions and tags; that stand behind a hyphen or a line break."""
    orders = _wordings(instructions.TEMPLATES, illustrations.TEMPLATES, sound_samples.TEMPLATES)
    texts = [*_scene_texts(), *_GLUE.split(), *_tags(), *orders, *inferable.facts()]
    first = {match[0] for text in texts if (match := _WORD.match(text))}
    hyphened = {part for text in texts for part in re.findall(r"-([A-Za-z]+)", text)}
    return sorted(first | hyphened | words_of([PROMPT_TEMPLATE, NO_IMAGE]) | {"an", *ATTACHMENT_KINDS})


def _scene_texts() -> list[str]:
    texts = [*scene.OBJECT_COLOURS, *scene.BACKGROUND_COLOURS, *scene.SHAPES, *scene.SIZES, *scene.TEXTURES]
    texts += [*words.AT_PLACE, *words.AT_PLACE.values(), *words.PHOTOGRAPH_HEADS, *words.SCENE_HEADS]
    texts += [*words.RESPONSE_LEADS, *words.EFFECT_LEADS, *visual.REFERENTS, visual.ODD]
    texts += [head for heads in words.EFFECT_HEADS.values() for head in heads]
    named = [photo.words for photo in photographs.PHOTOGRAPHS.values()]
    return [*texts, *named, *(name.removeprefix("a ").removeprefix("an ") for name in named)]


def _tags() -> list[str]:
    return [*illustrations.GENERAL_TAGS, *(tag for values in illustrations.ATTRIBUTES.values() for tag in values)]


def _wordings(*tables: dict[str, tuple[str, ...]]) -> list[str]:
    return [text for table in tables for wordings in table.values() for text in wordings]


def _sources() -> dict[str, list[str]]:
    return {
        "scenes: captions, responses, instructions": [*_scene_texts(), _GLUE, *_wordings(instructions.TEMPLATES)],
        "prompts and the words of placeholders": [" ".join(ATTACHMENT_KINDS), PROMPT_TEMPLATE, NO_IMAGE],
        "sounds": _wordings(sound_samples.TEMPLATES),
        "illustrations": [*_tags(), *_wordings(illustrations.TEMPLATES)],
        "inferable phrases and the facts behind them": [*inferable.facts(), *(each.text for each in inferable.PHRASES)],
        "expressive edits": [*expressive.WHOLE.values(), "match others"],
        "sentences about a picture": [_SENTENCES],
        **{f"reserve: {name}": [text] for name, text in _RESERVE.items()},
    }


def as_text() -> str:
    """The content of `words.txt`."""
    lines = ["# Written by python -m experiments.tiny_backbones.word_list; one word a line."]
    for name, found in {**sections(), "placeholders": PLACEHOLDERS, _BARE: (*bare_words(), *PLACEHOLDERS)}.items():
        lines += [f"# {name}", *found]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line: `python -m experiments.tiny_backbones.word_list` writes words.txt anew."""
    OptionParser(description=main.__doc__).parse_args()
    write_text(WORDS_FILE, as_text())
    print(f"{WORDS_FILE}: {len(read_word_list().words)} words")  # noqa: T201, the result of the command


if __name__ == "__main__":
    main()
