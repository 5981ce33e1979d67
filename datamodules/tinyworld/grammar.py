"""Captions and responses read back into objects, attributes and places, so that texts are judged by their meaning.

`parse` takes any text: what is not of this world is passed over. It does not ask which wording was used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from datamodules.tinyworld.photographs import PHOTOGRAPHS
from datamodules.tinyworld.scene import (
    BACKGROUND_COLOURS,
    OBJECT_COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
)
from datamodules.tinyworld.words import background_noun, said_colour_and_texture


@dataclass(frozen=True, slots=True)
class ParsedThing:
    """An object as a text describes it; "" for what is not said ("plain" texture is never said)."""

    shape: str
    colour: str
    texture: str
    size: str
    place: str
    outlined: bool


@dataclass(frozen=True, slots=True)
class ParsedText:
    """What a text says.

    `objects` in their order; `absent`: named behind "without"; `background`: "white background", "gradient background
    from white to navy", ... or the subject of a photograph ("cat"), "" if none; `effect`: as in `Scene.effect`.
    """

    objects: tuple[ParsedThing, ...]
    background: str
    effect: str
    absent: tuple[ParsedThing, ...] = ()


@dataclass(frozen=True, slots=True)
class TextVerdict:
    """Whether a text describes a scene.

    `objects`: the shapes; `colours`: the shapes with their colours; `count`: how many; `places`: the shapes with their
    places; `details`: sizes, textures and outlines too; `background`, `effect`; `correct`: all of these.
    """

    objects: bool
    colours: bool
    count: bool
    places: bool
    details: bool
    background: bool
    effect: bool

    @property
    def correct(self) -> bool:
        """The text says what the scene shows, all of it and nothing else."""
        parts = (self.objects, self.colours, self.count, self.places, self.details, self.background, self.effect)
        return all(parts)


def one_of(words: Iterable[str]) -> str:
    """A pattern for any of some words, the longest first."""
    return "|".join(sorted(words, key=len, reverse=True))


_TEXTURE_WORDS = [photo.words for photo in PHOTOGRAPHS.values() if photo.kind == "texture"]
_COLOUR = one_of(BACKGROUND_COLOURS)


def thing_pattern(nouns: Iterable[str]) -> re.Pattern[str]:
    """A pattern for an object by one of some nouns and all that may be said of it; `parsed_thing` takes its matches."""
    return re.compile(
        rf"(?:\b(?P<size>{one_of(SIZES)}) )?(?:\b(?P<colour>{one_of(OBJECT_COLOURS)}) )?"
        rf"(?:\b(?P<texture>{one_of(TEXTURES)}) )?\b(?P<shape>{one_of(nouns)})\b(?P<outlined> with a black outline)?"
        rf"(?: (?:at|on|in) the (?P<place>{one_of(PLACES)})\b)?"
    )


_THING = thing_pattern(SHAPES)
_BACKGROUND = re.compile(
    rf"\b((?:plain|gradient|{_COLOUR}|{one_of(_TEXTURE_WORDS)}) background(?: from (?:{_COLOUR}) to (?:{_COLOUR}))?)\b"
)
_SUBJECT = re.compile(r"\bphoto(?:graph)? of (?:an? )?([a-z ]+)")
_EFFECTS = {
    "line art": r"line drawing|line art",
    "pixelate": r"pixelated|pixel art",
    "negative": r"negative",
    "sepia": r"sepia",
    "night": r"night",
    "fog": r"fog|foggy",
    "brighter": r"bright",
    "exposure up": r"overexposed",
    "exposure down": r"underexposed",
    "contrast up": r"high-contrast",
    "contrast down": r"low-contrast",
    "saturation up": r"vivid",
    "saturation down": r"dull",
}


def parse(text: str) -> ParsedText:
    """What a caption or response says; an empty `ParsedText` if it says nothing of this world."""
    present, _, gone = normalised(text).partition("without")
    background = _BACKGROUND.search(present) or _SUBJECT.search(present)
    effects = [name for name, pattern in _EFFECTS.items() if re.search(rf"\b(?:{pattern})\b", present)]
    return ParsedText(
        objects=_things(present),
        background=background.group(1).strip() if background else "",
        effect=" and ".join(effects),
        absent=_things(gone),
    )


def normalised(text: str) -> str:
    """A text in small letters, with single spaces and none before commas, full stops and round hyphens."""
    spaced = re.sub(r"\s+", " ", text.lower())
    return re.sub(r" ?- ?", "-", re.sub(r" ([,.])", r"\1", spaced)).strip()


def _things(text: str) -> tuple[ParsedThing, ...]:
    return tuple(parsed_thing(found) for found in _THING.finditer(text))


def parsed_thing(found: re.Match[str]) -> ParsedThing:
    """What a match of a `thing_pattern` says."""
    return ParsedThing(
        shape=found["shape"],
        colour=found["colour"] or "",
        texture="" if found["texture"] in (None, "plain") else found["texture"],
        size=found["size"] or "",
        place=found["place"] or "",
        outlined=found["outlined"] is not None,
    )


def said_of(thing: Thing, effect: str) -> ParsedThing:
    """What a full description says of an object in a scene with this effect."""
    colour, texture = said_colour_and_texture(thing, effect)
    return ParsedThing(
        shape=thing.shape,
        colour=colour,
        texture=texture,
        size=thing.size,
        place=thing.place,
        outlined=thing.outlined,
    )


def judge_text(text: str, scene: Scene | dict[str, Any]) -> TextVerdict:
    """Whether `text` describes `scene` (a `Scene` or its JSON form), whatever its wording and the order of objects."""
    scene = scene if isinstance(scene, Scene) else Scene.from_dict(scene)
    said = parse(text)
    true = [said_of(thing, scene.effect) for thing in scene.things]

    def equal(*attributes: str) -> bool:
        mine = Counter(tuple(getattr(thing, name) for name in attributes) for thing in said.objects)
        return mine == Counter(tuple(getattr(thing, name) for name in attributes) for thing in true)

    return TextVerdict(
        objects=equal("shape"),
        colours=equal("shape", "colour"),
        count=len(said.objects) == len(true),
        places=equal("shape", "place"),
        details=equal("shape", "colour", "texture", "size", "place", "outlined"),
        background=said.background == background_noun(scene.background, scene.effect),
        effect=said.effect == scene.effect,
    )
