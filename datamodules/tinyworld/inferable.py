"""Phrases that only language explains: "the colour of grass" is green, "a shape with three sides" is a triangle.

Each has the literal word that it stands for, and a fact, a sentence from which it can be inferred and in which it does
not stand itself. Some phrases are held out: no training instruction has them, while their facts may be read by a
language model in training. No phrase ever names an attribute by its literal word.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from datamodules.tinyworld.words import AT_PLACE

INFERABLE_TYPES = ("add", "remove", "replace", "recolour", "move", "resize", "background", "outline")
"""Edit types whose instructions name an object, a colour, a size or a place."""
TRAINED_SPLITS = ("train", "val", "outline", "removals")
"""Splits whose instructions have no held-out phrase."""

# Of each row the phrases behind the bar are held out.
COLOURS = """
red: blood, a ripe tomato, a fire engine | a cherry, a poppy
orange: a carrot, a pumpkin, a tangerine | an apricot, rust
yellow: a lemon, a banana, butter | a sunflower, a canary
green: grass, a frog, spinach | an emerald, a cucumber
cyan: a swimming pool, a tropical lagoon, glacier ice | turquoise, an aquamarine
blue: a sapphire, denim, the deep sea | a cornflower, a blueberry
purple: a plum, an aubergine, an amethyst | a violet, lavender
pink: a flamingo, a piglet, bubble gum | a peony, candy floss
white: snow, milk, chalk | a swan, a polar bear
grey: ash, an elephant, lead | a rhinoceros, concrete
black: coal, soot, a raven | tar, ink
beige: sand, oatmeal, parchment | a camel, a biscuit
navy: the sky at midnight, a sailor uniform, the coat of an admiral | the uniform of the police, a starless night
brown: chocolate, soil, tree bark | a chestnut, cocoa
"""
LIKENESSES = """
circle: a wheel, a coin, the full moon | a plate, a pancake
square: a chessboard, a floor tile, a face of a dice | a sticky note, a pizza box
triangle: a slice of pizza, a pyramid | a tent, a wedge of cheese
diamond: a kite, a baseball field | an argyle pattern, a rhombus
cross: a plus sign, a first aid sign | a sign for addition, the flag of switzerland
ring: a doughnut, a lifebuoy | a bagel, a wedding band
"""
DESCRIPTIONS = (
    ("circle", "without any corner or hole", "a circle has neither corner nor hole"),
    ("square", "that lies flat on one of its four sides", "a square lies flat and has four sides"),
    ("triangle", "with three sides", "a triangle has three sides"),
    ("triangle", "with three corners", "a triangle has three corners"),
    ("diamond", "that stands on one of its four corners", "a diamond stands on a corner and has four of them"),
    ("cross", "with four arms", "a cross has four arms"),
    ("ring", "with a hole in its middle", "a ring has a hole in the middle"),
)
MEASURES = """
small: a mouse, an ant, a pea | a flea, a crumb
large: an elephant, a whale, a house | a mountain, a giant
"""
MIDDLING = "middling, average, ordinary | moderate, intermediate"
SITUATIONS = """
top left: a page begins, north west is on a map, a clock shows half past ten | a book has its first word
top: a clock shows twelve, north is on a map, a house has its roof | a portrait has its hat
top right: a letter has its stamp, north east is on a map, a clock shows half past one | a window has its closing button
left: a clock shows nine, west is on a map, a line of text begins | the sun sets on a map
centre: the hands of a clock meet, a dart scores most, an egg has its yolk | a wheel has its hub
right: a clock shows three, east is on a map, a line of text ends | the sun rises on a map
bottom left: south west is on a map, a clock shows half past seven, a graph has its origin | a last line begins
bottom: a clock shows six, south is on a map, a house has its cellar | a portrait has its feet
bottom right: a page ends, south east is on a map, a clock shows half past four | a letter is signed
"""


@dataclass(frozen=True, slots=True)
class Phrase:
    """One phrase: what it says in place of the literal `value` of an attribute (colour, shape, size or place)."""

    attribute: str
    value: str
    text: str
    fact: str
    held_out: bool

    @property
    def meaning(self) -> tuple[str, str]:
        """The phrase by itself and what it means, such as ("the colour of grass is", "green")."""
        if self.attribute == "shape":
            return f"a shape {self.text} is", f"a {self.value}"
        return f"{self.text} is", AT_PLACE[self.value] if self.attribute == "place" else self.value


def _rows(table: str) -> list[tuple[str, str, bool]]:
    """Value, what the phrase is made of, and whether it is held out."""
    found = []
    for line in table.strip().splitlines():
        value, _, rest = line.partition(": ")
        for part, held_out in zip(rest.split(" | "), (False, True), strict=True):
            found += [(value, item, held_out) for item in part.split(", ")]
    return found


PHRASES: tuple[Phrase, ...] = (
    *(Phrase("colour", value, f"the colour of {it}", f"{it} is {value}", out) for value, it, out in _rows(COLOURS)),
    *(Phrase("shape", value, f"like {it}", f"{it} looks like a {value}", out) for value, it, out in _rows(LIKENESSES)),
    *(Phrase("shape", value, text, fact, False) for value, text, fact in DESCRIPTIONS),
    *(Phrase("size", value, f"the size of {it}", f"{it} is {value}", out) for value, it, out in _rows(MEASURES)),
    *(
        Phrase("size", value, f"{'an' if it[0] in 'aio' else 'a'} {it} size", f"{it} means {value}", out)
        for value, it, out in _rows(f"medium: {MIDDLING}")
    ),
    *(Phrase("place", value, f"where {it}", f"{it} {AT_PLACE[value]}", out) for value, it, out in _rows(SITUATIONS)),
)
"""Every phrase. `text` of a shape follows the word "shape", that of a place a verb or an object."""


@cache
def phrases(attribute: str, value: str, held_out: bool) -> tuple[str, ...]:
    """The phrases for one value of an attribute that test (`held_out`) or training may use; none if it is unknown."""
    found = (phrase for phrase in PHRASES if (phrase.attribute, phrase.value) == (attribute, value))
    return tuple(phrase.text for phrase in found if phrase.held_out == held_out)


def facts() -> tuple[str, ...]:
    """What must be known to understand all phrases, one sentence each: text for a language model in training."""
    return tuple(phrase.fact for phrase in PHRASES)


@cache
def completions() -> tuple[tuple[str, str], ...]:
    """Each fact and each phrase's meaning, as a beginning and the end that it asks for.

    Such as ("grass is", "green"), ("a circle", "has neither corner nor hole") and ("the colour of grass is", "green").
    """
    known = (_completion(phrase) for phrase in PHRASES)
    return tuple(dict.fromkeys((*known, *(phrase.meaning for phrase in PHRASES))))


def _completion(phrase: Phrase) -> tuple[str, str]:
    end = AT_PLACE[phrase.value] if phrase.attribute == "place" else phrase.value
    if phrase.fact.endswith(end):
        return phrase.fact.removesuffix(end).strip(), end
    subject = f"a {phrase.value}"
    return subject, phrase.fact.removeprefix(subject).strip()
