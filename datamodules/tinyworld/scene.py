"""The scene graph of the small world: what a picture shows, without pixels and without words.

A scene is a background, up to four objects, and at most one global effect. Everything is hashable and turns into a
JSON dict and back, so that it travels in a sample's `metadata`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

SIDE = 64  # pixels

Colour = tuple[int, int, int]

OBJECT_COLOURS: dict[str, Colour] = {
    "red": (225, 30, 35),
    "orange": (252, 140, 20),
    "yellow": (246, 228, 50),
    "green": (30, 160, 60),
    "cyan": (70, 215, 225),
    "blue": (35, 70, 230),
    "purple": (140, 45, 175),
    "pink": (252, 140, 195),
}
BACKGROUND_COLOURS: dict[str, Colour] = {
    "white": (250, 250, 250),
    "grey": (145, 145, 145),
    "black": (14, 14, 14),
    "beige": (222, 202, 168),
    "navy": (24, 28, 72),
    "brown": (92, 62, 42),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
SIZES = ("small", "medium", "large")
TEXTURES = ("plain", "striped", "dotted")
PLACES = (
    "top left",
    "top",
    "top right",
    "left",
    "centre",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
STYLES = ("line art", "pixelate", "negative", "sepia")
ATMOSPHERES = ("night", "fog", "brighter")
PHOTOGRAPHIC = (
    "exposure up",
    "exposure down",
    "contrast up",
    "contrast down",
    "saturation up",
    "saturation down",
)
HELD_OUT_PAIRS = frozenset(
    {
        ("red", "cross"),
        ("blue", "ring"),
        ("green", "triangle"),
        ("yellow", "diamond"),
        ("purple", "circle"),
        ("cyan", "square"),
    }
)


@dataclass(frozen=True, slots=True)
class Thing:
    """One object. `x`, `y`: its centre in pixels (the corner between four pixels), near the middle of its place."""

    shape: str
    colour: str
    texture: str
    size: str
    place: str
    x: int
    y: int
    outlined: bool = False


@dataclass(frozen=True, slots=True)
class Background:
    """What stands behind the objects.

    kind "plain": `first` is its colour; "gradient": `first` at the top fades to `second` at the bottom;
    "texture": a cut of the photograph file `photograph`; "photograph": the same, and the photograph is the subject.
    `left`, `top`, `zoom`: the cut takes 64*zoom pixels each way from there and averages zoom x zoom blocks.
    """

    kind: str
    first: str = ""
    second: str = ""
    photograph: str = ""
    left: int = 0
    top: int = 0
    zoom: int = 1


@dataclass(frozen=True, slots=True)
class Scene:
    """A background, its objects in reading order of their places, and one global effect ("" for none)."""

    background: Background
    things: tuple[Thing, ...] = ()
    effect: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        things = [fields_of(thing) for thing in self.things]
        return {"background": fields_of(self.background), "things": things, "effect": self.effect}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Scene:
        """Scene from its JSON form. Raises KeyError or TypeError on any other dict."""
        things = tuple(Thing(**thing) for thing in data["things"])
        return cls(Background(**data["background"]), things, data["effect"])

    def with_things(self, things: tuple[Thing, ...]) -> Scene:
        """The same scene with other objects, put in reading order."""
        return replace(self, things=tuple(sorted(things, key=lambda thing: PLACES.index(thing.place))))

    def free_places(self) -> list[str]:
        """Places that hold no object."""
        taken = {thing.place for thing in self.things}
        return [place for place in PLACES if place not in taken]


def cell_centre(place: str) -> tuple[int, int]:
    """Middle (x, y) in pixels of a place of the 3x3 grid."""
    row, column = divmod(PLACES.index(place), 3)
    return 11 + 21 * column, 11 + 21 * row


def fields_of(value: Thing | Background) -> dict[str, Any]:
    """An object's or background's fields by name (`dataclasses.asdict` copies deeply and is far slower)."""
    return {field.name: getattr(value, field.name) for field in fields(value)}
