"""Instructions in English for every edit, several wordings a type."""

from __future__ import annotations

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.photographs import PHOTOGRAPHS
from datamodules.tinyworld.scene import Background, Scene, Thing
from datamodules.tinyworld.words import AT_PLACE, noun, with_article

# {it}: the object meant, with "the"; {new}: the new colour, object, size or background; {at}, {place}: the new place.
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
    "move": ("move {it} to the {place}", "shift {it} to the {place}", "bring {it} to the {place}", "put {it} {at}"),
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


def instruct(draws: Draws, edit: Edit, source: Scene, target: Scene) -> str:
    """The instruction that asks for `edit`."""
    if edit.type == "background":
        return draws.choice(TEMPLATES[target.background.kind]).format(new=_new_background(target.background))
    it, new, at, place = "", "", "", ""
    if edit.before is not None:
        it = f"the {edit.referent or refer(draws, edit.before, source)}"
    if edit.after is not None:
        at, place = AT_PLACE[edit.after.place], edit.after.place
        new = _new(edit, edit.after)
    templates = TEMPLATES[edit.operation]
    if edit.operation == "resize" and edit.before is not None and edit.before.size == "medium":
        templates = (*templates, "make {it} bigger" if new == "large" else "make {it} smaller")
    return draws.choice(templates).format(it=it, new=new, at=at, place=place)


def refer(draws: Draws, thing: Thing, scene: Scene) -> str:
    """A phrase that fits `thing` and no other object of the scene: "red circle", "small shape", "shape on the left"."""
    forms = [
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
        base = f"{thing.colour} {thing.shape}" if draws.chance(50) else "shape"
        return f"{base} {AT_PLACE[thing.place]}"
    form = draws.choice(fitting)
    words = [getattr(thing, attribute) for attribute in form]
    return " ".join(words if "shape" in form else [*words, "shape"])


def _same(thing: Thing, other: Thing, form: tuple[str, ...]) -> bool:
    return all(getattr(thing, attribute) == getattr(other, attribute) for attribute in form)


def _new(edit: Edit, after: Thing) -> str:
    if edit.operation == "add":
        return with_article(noun(after))
    if edit.operation == "replace":
        return with_article(after.shape if edit.type == "visual" else f"{after.colour} {after.shape}")
    return after.size if edit.operation == "resize" else after.colour


def _new_background(background: Background) -> str:
    if background.kind == "gradient":
        return f"from {background.first} to {background.second}"
    return background.first or PHOTOGRAPHS[background.photograph].words
