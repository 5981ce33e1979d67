"""The illustration world: simple drawn characters in line art, described by tags as picture boards have them.

A figure is one value for each of twelve independent attributes, and where it stands. This file knows figures, tags and
splits; `line_art` draws figures, `illustration_reader` reads them back, `illustration_samples` makes samples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.split_hash import hashed_split

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "face": ("round face", "square face", "pointed chin"),
    "hair": ("short hair", "long hair", "spiky hair", "twintails", "ponytail"),
    "hair_fill": ("white hair", "black hair", "striped hair"),
    "eyes": ("round eyes", "dot eyes", "closed eyes"),
    "mouth": ("smile", "frown", "open mouth"),
    "eyewear": ("", "glasses", "eyepatch"),
    "headwear": ("", "hat", "cat ears", "bow", "crown"),
    "tilt": ("", "tilted left", "tilted right"),
    "arms": ("arms down", "arms up", "waving"),
    "shirt": ("white shirt", "black shirt", "striped shirt", "dotted shirt"),
    "line": ("thin lines", "thick lines"),
    "background": ("white background", "grey background", "grid background", "dotted background"),
}
"""Values of each attribute, which are its tags; "" has none."""
GENERAL_TAGS = ("line art", "solo")
SCALES = (92, 100, 108)  # percent
REACH = 2  # pixels that a figure may stand off the middle
SPLITS = ("train", "val", "test")
TEMPLATES: dict[str, tuple[str, ...]] = {
    "change": ("change {old} to {new}", "replace {old} with {new}", "{new} instead of {old}", "{new}"),
    "add": ("add {new}", "give the character {new}", "draw the character with {new}", "{new}"),
    "remove": ("remove {old}", "no {old}", "draw the character without {old}"),
    "tilt": ("draw the head {new}", "{new}"),
    "upright": ("draw the head upright", "no longer {old}"),
}
"""Wordings of an edit that moves one attribute: {old} and {new} are tags."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn character: a value of `ATTRIBUTES` each, and what no tag says: size in percent, place in pixels."""

    face: str
    hair: str
    hair_fill: str
    eyes: str
    mouth: str
    eyewear: str
    headwear: str
    tilt: str
    arms: str
    shirt: str
    line: str
    background: str
    scale: int = 100
    x: int = 0
    y: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON form; `Figure(**data)` takes it back."""
        return asdict(self)


def draw_figure(draws: Draws) -> Figure:
    """A character, each attribute drawn on its own and each value equally often."""
    values = {name: draws.choice(values) for name, values in ATTRIBUTES.items()}
    place = (draws.between(-REACH, REACH), draws.between(-REACH, REACH))
    return Figure(**values, scale=draws.choice(SCALES), x=place[0], y=place[1])


def tags(draws: Draws, figure: Figure) -> str:
    """The tags of a figure, comma-separated: general ones first, the others in random order."""
    own = [value for name in ATTRIBUTES if (value := getattr(figure, name))]
    return ", ".join([*GENERAL_TAGS, *draws.pick(own, len(own))])


def figure_of(text: str) -> dict[str, str]:
    """Attributes that a text of tags names, in any order; unknown tags are passed over, absent ones left out."""
    said = {" ".join(tag.split()) for tag in text.lower().split(",")}
    return {name: value for name, values in ATTRIBUTES.items() for value in values if value and value in said}


def instruct(draws: Draws, name: str, old: str, new: str) -> str:
    """The instruction that moves attribute `name` from one value to another."""
    kind = "change" if old and new else "add" if new else "remove"
    if name == "tilt" and kind != "change":
        kind = "tilt" if new else "upright"
    return draws.choice(TEMPLATES[kind]).format(old=old, new=new)


def split_of(figure: Figure) -> str:
    """The split whose figures these attributes belong to, by a hash of all of them: 80, 10 and 10 percent."""
    return hashed_split("/".join(getattr(figure, name) for name in ATTRIBUTES))
