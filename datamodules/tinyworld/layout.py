"""Random scenes: how many objects, which, where, and on what, under the rules of a split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from datamodules.tinyworld import photographs
from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.render import shade
from datamodules.tinyworld.scene import (
    BACKGROUND_COLOURS,
    HELD_OUT_PAIRS,
    OBJECT_COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Background,
    Colour,
    Scene,
    Thing,
    cell_centre,
)

JITTER = {"small": 3, "medium": 2, "large": 0}  # pixels; keeps every object inside its own place
MIN_CONTRAST = 65  # least distance of any tone of an object from a plain or gradient background, in grey levels


@dataclass(frozen=True, slots=True)
class Rules:
    """What a split allows. `max_things`: most objects of a scene; `plain`: no textures, backgrounds of one colour;
    `centred`: objects stand in the middle.
    """

    photographs: bool
    held_out_pairs: bool = False
    held_out_photographs: bool = False
    max_things: int = 3
    plain: bool = False
    centred: bool = False


def allowed(thing: Thing, background: Background, rules: Rules) -> bool:
    """Whether an object may stand on this background in this split."""
    if not rules.held_out_pairs and (thing.colour, thing.shape) in HELD_OUT_PAIRS:
        return False
    return contrast(thing, background) >= MIN_CONTRAST


def contrast(thing: Thing, background: Background) -> int:
    """Least distance between the object's tones and the ends and middle of the background (255 on photographs)."""
    if background.kind not in ("plain", "gradient"):
        return 255
    return _contrast(thing.colour, thing.texture != "plain", background.first, background.second or background.first)


@cache
def _contrast(name: str, textured: bool, upper: str, lower: str) -> int:
    first, second = BACKGROUND_COLOURS[upper], BACKGROUND_COLOURS[lower]
    middle = ((first[0] + second[0]) // 2, (first[1] + second[1]) // 2, (first[2] + second[2]) // 2)
    colour = OBJECT_COLOURS[name]
    tones = (colour, shade(colour)) if textured else (colour,)
    return min(_distance(tone, other) for tone in tones for other in (first, middle, second))


def _distance(first: Colour, second: Colour) -> int:
    return int(sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5)


def draw_background(draws: Draws, rules: Rules) -> Background:
    """A background that may stand behind objects."""
    if rules.held_out_photographs or (rules.photographs and draws.chance(15)):
        return photographs.draw_cut(draws, draws.choice(photographs.names("texture", rules.held_out_photographs)))
    names = list(BACKGROUND_COLOURS)
    if rules.plain or draws.chance(65):
        return Background("plain", first=draws.choice(names))
    first, second = draws.pick(names, 2)
    return Background("gradient", first=first, second=second)


def random_thing(draws: Draws, place: str, background: Background, rules: Rules, jitter: bool = True) -> Thing:
    """An object at a place, off its middle by a few pixels if `jitter`."""
    while True:
        thing = Thing(
            shape=draws.choice(SHAPES),
            colour=draws.choice(tuple(OBJECT_COLOURS)),
            texture="plain" if rules.plain or not draws.chance(60) else draws.choice(TEXTURES),
            size=draws.choice(SIZES),
            place=place,
            x=0,
            y=0,
        )
        if rules.held_out_pairs and draws.chance(50):
            colour, shape = draws.choice(sorted(HELD_OUT_PAIRS))
            thing = replace(thing, colour=colour, shape=shape)
        if allowed(thing, background, rules):
            return put(draws, thing, place, jitter)


def put(draws: Draws, thing: Thing, place: str, jitter: bool) -> Thing:
    """The same object at another place."""
    x, y = cell_centre(place)
    reach = JITTER[thing.size] if jitter else 0
    return replace(thing, place=place, x=x + draws.between(-reach, reach), y=y + draws.between(-reach, reach))


def draw_scene(draws: Draws, rules: Rules, count: int) -> Scene:
    """A scene of `count` objects without effect."""
    background = draw_background(draws, rules)
    empty = Scene(background)
    places = ["centre"] if rules.centred else draws.pick(empty.free_places(), count)
    return empty.with_things(tuple(random_thing(draws, place, background, rules) for place in places))
