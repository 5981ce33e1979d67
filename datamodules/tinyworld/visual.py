"""Visual edits: instructions that name an object by what the picture shows ("the odd one out", "the largest shape")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.layout import Rules, allowed, draw_scene, put
from datamodules.tinyworld.scene import OBJECT_COLOURS, PLACES, SHAPES, SIZES, Scene, Thing

ODD = "odd one out"
REFERENTS: dict[str, Callable[[Thing], int]] = {
    "largest shape": lambda thing: -SIZES.index(thing.size),
    "smallest shape": lambda thing: SIZES.index(thing.size),
    "leftmost shape": lambda thing: PLACES.index(thing.place) % 3,
    "rightmost shape": lambda thing: -(PLACES.index(thing.place) % 3),
    "highest shape": lambda thing: PLACES.index(thing.place) // 3,
    "lowest shape": lambda thing: -(PLACES.index(thing.place) // 3),
}
OPERATIONS = ("recolour", "remove", "replace", "move")
Found = tuple[Thing, Thing | None, str, str] | None


def draw_source(draws: Draws, rules: Rules) -> Scene:
    """A scene for a visual edit, about half of them with an odd one out; no object where the draw did not work out."""
    if not draws.chance(50):
        return draw_scene(draws, rules, rules.max_things)
    scene = _with_odd(draws, draw_scene(draws, rules, max(3, rules.max_things)), rules)
    return scene if odd_one_out(scene) is not None else Scene(scene.background)


def draw_visual(draws: Draws, source: Scene, rules: Rules) -> Found:
    """The object meant, the odd one out where there is one, what it becomes, operation and referent.

    None where the draw did not work out.
    """
    meant, referent = odd_one_out(source), ODD
    odd = meant is not None
    if not odd:
        referent = draws.choice(tuple(REFERENTS))
        meant = first_by(source, REFERENTS[referent])
    if meant is None:
        return None
    operation = draws.choice((*OPERATIONS, "match") if odd else OPERATIONS)
    after = _after(draws, source, meant, operation)
    if after == meant or (after is not None and not allowed(after, source.background, rules)):
        return None
    return meant, after, operation, referent


def first_by(scene: Scene, order: Callable[[Thing], int]) -> Thing | None:
    """The only object that comes first in an order, or None if two share the first rank."""
    ranked = sorted(scene.things, key=order)
    return ranked[0] if len(ranked) > 1 and order(ranked[0]) < order(ranked[1]) else None


def odd_attribute(scene: Scene) -> tuple[str, Thing] | None:
    """The one attribute in which exactly one object differs from all others, and that object.

    None if there is no such attribute or two of them (then "odd" would be ambiguous); needs three objects.
    """
    odd = []
    for attribute in ("shape", "colour", "texture", "size"):
        values = Counter(getattr(thing, attribute) for thing in scene.things)
        if len(values) == 2 and min(values.values()) == 1 and len(scene.things) > 2:
            rare = min(values, key=lambda value: values[value])
            odd += [(attribute, thing) for thing in scene.things if getattr(thing, attribute) == rare]
    return odd[0] if len(odd) == 1 else None


def odd_one_out(scene: Scene) -> Thing | None:
    """The object that differs from all others in exactly one attribute, colour or shape; None if there is none."""
    found = odd_attribute(scene)
    return found[1] if found is not None and found[0] in ("colour", "shape") else None


def _with_odd(draws: Draws, scene: Scene, rules: Rules) -> Scene:
    """Give all objects but one the same colour or the same shape, and all of them the same texture."""
    attribute = draws.choice(("colour", "shape"))
    common = draws.choice(tuple(OBJECT_COLOURS) if attribute == "colour" else SHAPES)
    texture, size = draws.choice(scene.things).texture, draws.choice(SIZES)
    things = []
    for number, thing in enumerate(draws.pick(scene.things, len(scene.things))):
        thing = put(draws, replace(thing, texture=texture, size=size), thing.place, jitter=True)
        things.append(thing if number == 0 else replace(thing, **{attribute: common}))
    if not all(allowed(thing, scene.background, rules) for thing in things):
        return Scene(scene.background)
    return scene.with_things(tuple(things))


def _after(draws: Draws, source: Scene, meant: Thing, operation: str) -> Thing | None:
    if operation == "remove":
        return None
    if operation == "recolour":
        return replace(meant, colour=draws.choice(tuple(OBJECT_COLOURS)))
    if operation == "replace":
        return replace(meant, shape=draws.choice(SHAPES))
    if operation == "move":
        return put(draws, meant, draws.choice(source.free_places()), jitter=False)
    found = odd_attribute(source)
    assert found is not None  # "match" is only drawn for an odd one out
    others = [thing for thing in source.things if thing != meant]
    return replace(meant, **{found[0]: getattr(others[0], found[0])})
