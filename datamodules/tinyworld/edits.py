"""Edits as functions from a scene to a goal scene, with what was done to it. Words are made elsewhere (`words`).

Every function draws one edit of its type and returns None where the scene does not allow it; the caller then
draws another scene.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from datamodules.tinyworld import photographs, visual
from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.effects import Pixels, difference
from datamodules.tinyworld.layout import JITTER, Rules, allowed, draw_background, draw_scene, put, random_thing
from datamodules.tinyworld.render import render, silhouette
from datamodules.tinyworld.scene import (
    ATMOSPHERES,
    OBJECT_COLOURS,
    PHOTOGRAPHIC,
    SHAPES,
    SIDE,
    SIZES,
    STYLES,
    Scene,
    Thing,
    fields_of,
)

TRAINED_TYPES = (
    "add",
    "remove",
    "replace",
    "recolour",
    "move",
    "resize",
    "background",
    "style",
    "atmosphere",
    "photographic",
    "visual",
)
GLOBAL_TYPES = ("style", "atmosphere", "photographic")
MIN_CHANGE = 900  # least mean squared difference of source and target of a global edit, in squared grey levels


@dataclass(frozen=True, slots=True)
class Edit:
    """What was done. `before`: the object in the source scene, `after`: in the target scene (None where absent).

    `operation`: the effect of a global edit; what a visual edit does ("recolour", "remove", ...); else the type.
    `referent`: how a visual instruction names its object ("the largest shape").
    """

    type: str
    operation: str
    before: Thing | None = None
    after: Thing | None = None
    referent: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        before, after = (None if thing is None else fields_of(thing) for thing in (self.before, self.after))
        return {
            "type": self.type,
            "operation": self.operation,
            "before": before,
            "after": after,
            "referent": self.referent,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Edit:
        """Edit from its JSON form. Raises KeyError or TypeError on any other dict."""
        before, after = (None if data[name] is None else Thing(**data[name]) for name in ("before", "after"))
        return cls(data["type"], data["operation"], before, after, data["referent"])


Drawn = tuple[Scene, Edit] | None


def draw_edit(draws: Draws, edit_type: str, rules: Rules) -> tuple[Scene, Scene, Edit] | None:
    """A source scene, its goal and the edit between them; None where this draw did not work out.

    Nothing is rendered here: whether a change of the whole picture can be seen is for `is_visible` to say.
    """
    source = draw_source(draws, edit_type, rules)
    found = draw_goal(draws, source, edit_type, rules)
    return None if found is None else (source, *found)


def draw_source(draws: Draws, edit_type: str, rules: Rules) -> Scene:
    """A scene that an edit of a type may be done to."""
    if edit_type == "photographic":
        name = draws.choice(photographs.names("photograph", rules.held_out_photographs))
        return Scene(photographs.draw_cut(draws, name))
    if edit_type == "visual":
        return visual.draw_source(draws, rules)
    if edit_type == "background" and rules.held_out_photographs:  # the goal, not the source, shows the photograph
        rules = replace(rules, photographs=False, held_out_photographs=False)
    fewest = 2 if edit_type == "remove" else 1
    most = rules.max_things - 1 if edit_type == "add" else rules.max_things
    return draw_scene(draws, rules, draws.between(fewest, most))


def draw_goal(draws: Draws, source: Scene, edit_type: str, rules: Rules) -> Drawn:
    """An edit of a type and what it makes of `source`; None where this draw did not work out."""
    if edit_type == "visual":
        found = visual.draw_visual(draws, source, rules)
        return None if found is None else _of_thing(source, Edit("visual", found[2], found[0], found[1], found[3]))
    if edit_type == "background":
        return _background(draws, source, rules)
    if edit_type in GLOBAL_TYPES:
        effect = draws.choice({"style": STYLES, "atmosphere": ATMOSPHERES, "photographic": PHOTOGRAPHIC}[edit_type])
        photograph = photographs.PHOTOGRAPHS.get(source.background.photograph)
        if effect.startswith("saturation") and photograph is not None and not photograph.coloured:
            return None
        return replace(source, effect=effect), Edit(edit_type, effect)
    before = None if edit_type == "add" else draws.choice(source.things)
    after = _changed(draws, edit_type, source, before, rules)
    if after is not None and (after == before or not allowed(after, source.background, rules)):
        return None
    return _of_thing(source, Edit(edit_type, edit_type, before, after))


def _of_thing(source: Scene, edit: Edit) -> Drawn:
    kept = tuple(thing for thing in source.things if thing != edit.before)
    return source.with_things(kept if edit.after is None else (*kept, edit.after)), edit


def _changed(draws: Draws, edit_type: str, source: Scene, before: Thing | None, rules: Rules) -> Thing | None:
    if edit_type == "remove":
        return None
    if edit_type == "add" or before is None:
        return random_thing(draws, draws.choice(source.free_places()), source.background, rules, jitter=False)
    if edit_type == "replace":
        shape, colour = draws.choice(SHAPES), draws.choice(tuple(OBJECT_COLOURS))
        return before if shape == before.shape else replace(before, shape=shape, colour=colour)
    if edit_type == "recolour":
        return replace(before, colour=draws.choice(tuple(OBJECT_COLOURS)))
    if edit_type == "move":
        return put(draws, before, draws.choice(source.free_places()), jitter=False)
    if edit_type == "resize":
        return resized(draws, before, draws.choice(SIZES))
    if edit_type == "outline":
        dark = {"black", "navy", "brown"} & {source.background.first, source.background.second}
        thin = (before.shape, before.size) == ("ring", "small")  # all of it would be outline
        return before if dark or thin else replace(before, outlined=True)
    raise ValueError(f"edit type {edit_type!r}: expected one of {', '.join((*TRAINED_TYPES, 'outline'))}")


def resized(draws: Draws, thing: Thing, size: str) -> Thing:
    """The object in another size, kept where it is unless it would leave its place."""
    centred = put(draws, thing, thing.place, jitter=False)
    reach = JITTER[size]
    x = min(max(thing.x, centred.x - reach), centred.x + reach)
    y = min(max(thing.y, centred.y - reach), centred.y + reach)
    return replace(thing, size=size, x=x, y=y)


def _background(draws: Draws, source: Scene, rules: Rules) -> Drawn:
    background = draw_background(draws, rules)
    old = source.background
    same = (background.kind, background.first, background.second, background.photograph) == (
        old.kind,
        old.first,
        old.second,
        old.photograph,
    )
    if same or not all(allowed(thing, background, rules) for thing in source.things):
        return None
    return replace(source, background=background), Edit("background", "background")


def is_visible(source: Scene, target: Scene, edit: Edit) -> bool:
    """Whether a change of the background or the whole picture is seen, and all objects still are; others always are."""
    if edit.type not in (*GLOBAL_TYPES, "background"):
        return True
    pixels = render(target)
    if difference(render(source), pixels) < _least_change(edit):
        return False
    return edit.type == "background" or all(_seen(target, thing, pixels) for thing in target.things)


def _least_change(edit: Edit) -> int:
    if edit.operation == "pixelate":
        return MIN_CHANGE // 8
    if edit.type == "photographic":
        return MIN_CHANGE // 3 if edit.operation.startswith("saturation") else MIN_CHANGE * 2 // 3
    return MIN_CHANGE


def _seen(scene: Scene, thing: Thing, pixels: Pixels) -> bool:
    """Whether an object still stands out from what is behind it in the pixels of its scene."""
    without = render(scene.with_things(tuple(other for other in scene.things if other != thing)))
    return difference(without, pixels) * SIDE * SIDE >= MIN_CHANGE * int(silhouette(thing).sum())
