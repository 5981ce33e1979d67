"""Instructions in English for every edit, several wordings a type."""

from __future__ import annotations

from collections.abc import Mapping

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.inferable import INFERABLE_TYPES, phrases
from datamodules.tinyworld.photographs import PHOTOGRAPHS
from datamodules.tinyworld.scene import SIZES, Background, Scene, Thing
from datamodules.tinyworld.words import AT_PLACE, with_article

# {it}: the object meant, with "the"; {new}: the new colour, object, size or background; {at}, {place}: the new place,
# with its preposition and with "the".
TEMPLATES: dict[str, tuple[str, ...]] = {
    "add": ("add {new} {at}", "put {new} {at}", "draw {new} {at}", "place {new} {at}"),
    "remove": ("remove {it}", "delete {it}", "take away {it}", "erase {it}", "get rid of {it}"),
    "replace": ("replace {it} with {new}", "turn {it} into {new}", "change {it} into {new}", "swap {it} for {new}"),
    "recolour": (
        "make {it} {new}",
        "paint {it} {new}",
        "turn {it} {new}",
        "colour {it} {new}",
        "change the colour of {it} to {new}",
    ),
    "move": ("move {it} to {place}", "shift {it} to {place}", "bring {it} to {place}", "put {it} {at}"),
    "resize": ("make {it} {new}", "resize {it} to {new}", "change the size of {it} to {new}"),
    "outline": ("draw a black outline around {it}", "outline {it} in black", "give {it} a black outline"),
    "match": ("make {it} match the others", "make {it} like the others", "make {it} the same as the rest"),
    "line art": ("turn it into line art", "make it a line drawing", "redraw the picture as a line drawing"),
    "pixelate": ("pixelate the picture", "make it pixel art", "turn it into pixel art"),
    "negative": ("invert the colours", "turn the picture into a negative", "make a negative of the picture"),
    "sepia": ("make it sepia", "give the picture a sepia tone", "turn it into an old sepia picture"),
    "night": ("make it night", "show the scene at night", "turn day into night"),
    "fog": ("add fog", "make it foggy", "cover the scene in fog"),
    "brighter": ("make it brighter", "brighten the scene", "add more light"),
    "exposure up": ("increase the exposure", "raise the exposure", "overexpose the photograph"),
    "exposure down": ("reduce the exposure", "lower the exposure", "underexpose the photograph"),
    "contrast up": ("increase the contrast", "raise the contrast", "add more contrast"),
    "contrast down": ("reduce the contrast", "lower the contrast", "make the contrast low"),
    "saturation up": ("increase the saturation", "make the colours more vivid", "raise the saturation"),
    "saturation down": ("reduce the saturation", "make the colours duller", "lower the saturation"),
    "plain": ("make the background {new}", "change the background to {new}", "turn the background {new}"),
    "gradient": ("make the background fade {new}", "change the background to a gradient {new}"),
    "texture": ("replace the background with {new}", "change the background to {new}", "use {new} as the background"),
}


NEW_FORMS = {
    "add": ("size", "colour", "texture", "shape"),
    "replace": ("colour", "shape"),
    "recolour": ("colour",),
    "resize": ("size",),
    "move": ("place",),
}
"""The attributes that an instruction says of what is new, by operation; the place of an added object beside them."""
Slot = tuple[str, str]
"""Whose attribute: "it" of the object meant, "new" of what it becomes, "end" of the lower end of a gradient."""


def instruct(draws: Draws, edit: Edit, source: Scene, target: Scene) -> str:
    """The instruction that asks for `edit`."""
    return _say(draws, edit, target, _reference(draws, edit, source), {})


def can_infer(edit: Edit, target: Scene) -> bool:
    """Whether an edit can be asked for in inferable words; there are none for photographs, effects and the visual."""
    return edit.type in INFERABLE_TYPES and not (edit.type == "background" and target.background.kind == "texture")


def instruct_by_inference(draws: Draws, edit: Edit, source: Scene, target: Scene, held_out: bool) -> str:
    """An instruction that says one or two things in words of which only language knows the meaning.

    Args:
        held_out: with the phrases that no training instruction has.
    """
    form = _reference(draws, edit, source)
    slots = _slots(edit, target, form)
    chosen = draws.pick(sorted(slots), min(len(slots), 2 if draws.chance(35) else 1))
    said = {slot: draws.choice(phrases(slot[1], slots[slot], held_out)) for slot in chosen}
    return _say(draws, edit, target, form, said)


def _slots(edit: Edit, target: Scene, form: tuple[str, ...]) -> dict[Slot, str]:
    """What the instruction names that phrases can stand for, with its literal words."""
    if edit.type == "background":
        ends = {("new", "colour"): target.background.first, ("end", "colour"): target.background.second}
        return {slot: colour for slot, colour in ends.items() if colour}
    slots = {("it", name): getattr(edit.before, name) for name in form}
    if edit.after is not None:
        new = (*NEW_FORMS.get(edit.operation, ()), *(("place",) if edit.operation == "add" else ()))
        slots |= {("new", name): getattr(edit.after, name) for name in new}
    return {slot: value for slot, value in slots.items() if slot[1] != "texture"}


def _say(draws: Draws, edit: Edit, target: Scene, form: tuple[str, ...], said: Mapping[Slot, str]) -> str:
    """The instruction; `form`: what it says of the object meant, `said`: the phrases in place of literal words."""
    if edit.type == "background":
        return draws.choice(TEMPLATES[target.background.kind]).format(new=_new_background(target.background, said))
    it, new, at, place = "", "", "", ""
    if edit.before is not None:
        it = f"the {edit.referent or named(edit.before, form, _of('it', said))}"
    if edit.after is not None:
        literal = edit.after.place
        at, place = (said.get(("new", "place"), words) for words in (AT_PLACE[literal], f"the {literal}"))
        new = _new(edit, edit.after, _of("new", said))
    templates = TEMPLATES[edit.operation]
    if edit.operation == "resize" and edit.before is not None and edit.before.size == "medium" and new in SIZES:
        templates = (*templates, "make {it} bigger" if new == "large" else "make {it} smaller")
    return draws.choice(templates).format(it=it, new=new, at=at, place=place)


def _of(owner: str, said: Mapping[Slot, str]) -> dict[str, str]:
    return {attribute: phrase for (whose, attribute), phrase in said.items() if whose == owner}


def refer(draws: Draws, thing: Thing, scene: Scene) -> str:
    """A phrase that fits `thing` and no other object of the scene: "red circle", "small shape", "shape on the left"."""
    return named(thing, reference_form(draws, thing, scene), {})


def _reference(draws: Draws, edit: Edit, source: Scene) -> tuple[str, ...]:
    return () if edit.before is None or edit.referent else reference_form(draws, edit.before, source)


def reference_form(draws: Draws, thing: Thing, scene: Scene) -> tuple[str, ...]:
    """The attributes by which an instruction tells `thing` from all other objects of the scene."""
    forms: list[tuple[str, ...]] = [
        ("colour", "shape"),
        ("colour", "shape"),
        ("colour", "shape"),
        ("shape",),
        ("size", "shape"),
        ("size", "colour", "shape"),
        ("colour",),
    ]
    if thing.texture != "plain":
        forms += [("texture", "shape"), ("colour", "texture", "shape")]
    fitting = [form for form in forms if sum(_same(thing, other, form) for other in scene.things) == 1]
    if not fitting or draws.chance(12):
        return ("colour", "shape", "place") if draws.chance(50) else ("place",)
    return draws.choice(fitting)


def _same(thing: Thing, other: Thing, form: tuple[str, ...]) -> bool:
    return all(getattr(thing, attribute) == getattr(other, attribute) for attribute in form)


def named(thing: Thing, form: tuple[str, ...], said: Mapping[str, str]) -> str:
    """An object by some of its attributes, without article: "red circle", "red shape like a wheel on the left".

    Args:
        said: phrases in place of literal words, by attribute.
    """
    literal = [name for name in form if name not in said]
    words = [getattr(thing, name) for name in ("size", "colour", "texture") if name in literal]
    words = [word for word in words if word != "plain"]
    words.append(thing.shape if "shape" in literal else "shape")
    for attribute, phrase in (("shape", "{}"), ("colour", "in {}"), ("size", "of {}")):
        if attribute in said:
            words.append(phrase.format(said[attribute]))
    if "place" in form:
        words.append(said.get("place", AT_PLACE[thing.place]))
    return " ".join(words)


def _new(edit: Edit, after: Thing, said: Mapping[str, str]) -> str:
    form = ("shape",) if (edit.type, edit.operation) == ("visual", "replace") else NEW_FORMS.get(edit.operation, ())
    if "shape" in form:
        return with_article(named(after, form, said))
    return " ".join(said.get(name, getattr(after, name)) for name in form)


def _new_background(background: Background, said: Mapping[Slot, str]) -> str:
    first = said.get(("new", "colour"), background.first)
    if background.kind == "gradient":
        return f"from {first} to {said.get(('end', 'colour'), background.second)}"
    return first or PHOTOGRAPHS[background.photograph].words
