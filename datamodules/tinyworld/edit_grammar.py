"""Edits read back from texts and applied to scene graphs, so that what a method writes is judged by what it would do.

`read_edit` understands every wording of `instructions` and `expressive`, but no inferable phrases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from datamodules.tinyworld.expressive import WHOLE
from datamodules.tinyworld.grammar import ParsedThing, normalised, one_of, parsed_thing, thing_pattern
from datamodules.tinyworld.instructions import TEMPLATES
from datamodules.tinyworld.photographs import PHOTOGRAPHS
from datamodules.tinyworld.scene import (
    BACKGROUND_COLOURS,
    OBJECT_COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Background,
    Scene,
    Thing,
    cell_centre,
)
from datamodules.tinyworld.splits import scene_name
from datamodules.tinyworld.visual import ODD, REFERENTS, first_by, odd_attribute, odd_one_out

ANY_SHAPE = "shape"
RELATIVE_SIZES = {"bigger": "large", "smaller": "small"}
"""As instructions use them, of objects of medium size."""
_TEXTURES = {photo.words: name for name, photo in PHOTOGRAPHS.items() if photo.kind == "texture"}
_THING = thing_pattern((*SHAPES, ANY_SHAPE))
_COLOUR = one_of(BACKGROUND_COLOURS)
_PLACE = rf"the (?P<place>{one_of(PLACES)})"
_BLANKS = {"it": r"the (?P<it>.+?)", "place": _PLACE, "at": rf"(?:at|on|in) {_PLACE}"}
_NEW = {
    "add": r"an? (?P<new>.+?)",
    "replace": r"an? (?P<new>.+)",
    "recolour": rf"(?P<new>{one_of(OBJECT_COLOURS)})",
    "resize": rf"(?P<new>{one_of(SIZES)})",
    "plain": rf"(?P<new>{_COLOUR})",
    "gradient": rf"from (?P<new>{_COLOUR}) to (?P<end>{_COLOUR})",
    "texture": rf"(?P<new>{one_of(_TEXTURES)})",
}
"""What stands for {new} in the templates of an operation."""


@dataclass(frozen=True, slots=True)
class ReadEdit:
    """What a text asks for. `operation`: a key of `instructions.TEMPLATES`.

    `it`: the object meant, None where the edit has none; `referent`: how a visual instruction names it instead;
    `thing`: what is added or comes in its place; `new`: a colour, size, texture or place; `end`: the lower end of a
    gradient.
    """

    operation: str
    it: ParsedThing | None = None
    referent: str = ""
    thing: ParsedThing | None = None
    new: str = ""
    end: str = ""


def read_edit(text: str) -> ReadEdit | None:
    """The edit that a text asks for; None if it asks for none, for more than one, or for something else too."""
    plain = normalised(text).removesuffix(".").strip()
    found = (_read(operation, match) for operation, pattern in _patterns() if (match := pattern.fullmatch(plain)))
    return next((edit for edit in found if edit is not None), None)


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((operation, re.compile(pattern)) for operation, pattern in _all_patterns())


def _all_patterns() -> Iterator[tuple[str, str]]:
    yield from WHOLE.items()
    yield "resize", rf"make the (?P<it>.+) (?P<new>{one_of(RELATIVE_SIZES)})"
    for operation, templates in TEMPLATES.items():
        blanks = _BLANKS | {"new": _NEW.get(operation, "")}
        yield from ((operation, template.format(**blanks)) for template in templates)


def _read(operation: str, match: re.Match[str]) -> ReadEdit | None:
    """The edit of one template's match; None where something that stands in its blanks is no object of this world."""
    said = match.groupdict()
    it, referent, thing = None, "", None
    if "it" in said:
        referent = said["it"] if said["it"] in (ODD, *REFERENTS) else ""
        it = None if referent else _thing(said["it"])
        if it is None and not referent:
            return None
    if operation in ("add", "replace"):
        thing = _thing(said["new"])
        if thing is None or thing.shape == ANY_SHAPE:
            return None
    new = said.get("place") or ("" if thing else said.get("new") or "")
    return ReadEdit(operation, it, referent, thing, RELATIVE_SIZES.get(new, new), said.get("end") or "")


def _thing(text: str) -> ParsedThing | None:
    found = _THING.fullmatch(text)
    return None if found is None else parsed_thing(found)


def apply_edit(edit: ReadEdit, source: Scene) -> Scene | None:
    """The scene with an edit done to it; None where it cannot be done or it is not clear which object is meant."""
    if edit.operation in WHOLE:
        return replace(source, effect=edit.operation)
    if edit.operation in ("plain", "gradient", "texture"):
        photograph = _TEXTURES.get(edit.new, "")
        first = "" if photograph else edit.new
        return replace(source, background=Background(edit.operation, first, edit.end, photograph))
    if edit.operation == "add":
        added = None if edit.thing is None else _added(edit.thing, edit.new, source)
        return None if added is None else source.with_things((*source.things, added))
    before = _meant(edit, source)
    if before is None:
        return None
    rest = tuple(thing for thing in source.things if thing != before)
    if edit.operation == "remove":
        return source.with_things(rest)
    after = _changed(edit, before, source)
    return None if after is None else source.with_things((*rest, after))


def _meant(edit: ReadEdit, scene: Scene) -> Thing | None:
    if edit.referent:
        return odd_one_out(scene) if edit.referent == ODD else first_by(scene, REFERENTS[edit.referent])
    fitting = [thing for thing in scene.things if edit.it is not None and _fits(thing, edit.it)]
    return fitting[0] if len(fitting) == 1 else None


def _fits(thing: Thing, said: ParsedThing) -> bool:
    """Whether all that is said of an object is true of it."""
    named = (name for name in ("size", "colour", "texture", "place") if getattr(said, name))
    right = all(getattr(thing, name) == getattr(said, name) for name in named)
    return right and said.shape in (thing.shape, ANY_SHAPE) and (thing.outlined or not said.outlined)


def _added(said: ParsedThing, place: str, scene: Scene) -> Thing | None:
    if not (said.size and said.colour) or place not in scene.free_places():
        return None
    return Thing(said.shape, said.colour, said.texture or "plain", said.size, place, *cell_centre(place), said.outlined)


def _changed(edit: ReadEdit, before: Thing, source: Scene) -> Thing | None:
    if edit.operation == "replace" and edit.thing is not None:
        said = {name: getattr(edit.thing, name) for name in ("shape", "colour", "texture", "size")}
        return replace(before, **{name: value for name, value in said.items() if value})
    if edit.operation == "match":
        odd = odd_attribute(source)
        other = next((thing for thing in source.things if thing != before), None)
        return None if odd is None or other is None else replace(before, **{odd[0]: getattr(other, odd[0])})
    if edit.operation == "move":
        x, y = cell_centre(edit.new)
        return replace(before, place=edit.new, x=x, y=y) if edit.new in source.free_places() else None
    if edit.operation == "outline":
        return replace(before, outlined=True)
    return replace(before, **{"colour" if edit.operation == "recolour" else "size": edit.new})


def leads_to(text: str, source: Scene | dict[str, Any], target: Scene | dict[str, Any]) -> bool:
    """Whether a text asks for just the edit that makes `target` of `source` (scenes or their JSON form).

    Pixels of place do not count, nor does which part of a photograph stands behind.
    """
    scenes = (scene if isinstance(scene, Scene) else Scene.from_dict(scene) for scene in (source, target))
    before, after = scenes
    edit = read_edit(text)
    found = None if edit is None else apply_edit(edit, before)
    return found is not None and scene_name(found) == scene_name(after)


def names(text: str, thing: Thing | dict[str, Any], scene: Scene | dict[str, Any]) -> bool:
    """Whether the edit that a text asks for is about this object of the scene, and says so by what it looks like.

    Never where it leaves the object to the picture ("the odd one out"), or where its words fit another one too.

    Args:
        text: an edit.
        thing: the object that is meant, one of the scene's; or its JSON form.
        scene: before the edit; or its JSON form.
    """
    known = scene if isinstance(scene, Scene) else Scene.from_dict(scene)
    meant = thing if isinstance(thing, Thing) else Thing(**thing)
    edit = read_edit(text)
    return edit is not None and edit.it is not None and _meant(edit, known) == meant
