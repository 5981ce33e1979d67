"""Concise, self-contained edits: the object meant and what changes, in one wording an edit, and nothing else.

"make the large red circle on the left blue" is what methods learn to write that turn an instruction into one that a
denoiser can follow without seeing more. `edit_grammar` reads them.
"""

from __future__ import annotations

from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.instructions import named
from datamodules.tinyworld.photographs import PHOTOGRAPHS
from datamodules.tinyworld.scene import Background, Scene, Thing
from datamodules.tinyworld.visual import odd_attribute
from datamodules.tinyworld.words import AT_PLACE, noun, with_article

WHOLE = {
    "line art": "turn the picture into line art",
    "pixelate": "pixelate the picture",
    "negative": "turn the picture into a negative",
    "sepia": "give the picture a sepia tone",
    "night": "show the scene at night",
    "fog": "cover the scene in fog",
    "brighter": "brighten the scene",
    "exposure up": "increase the exposure",
    "exposure down": "reduce the exposure",
    "contrast up": "increase the contrast",
    "contrast down": "reduce the contrast",
    "saturation up": "increase the saturation",
    "saturation down": "reduce the saturation",
}
"""What is written for a change of the whole picture."""


def expressive(edit: Edit, source: Scene, target: Scene) -> str:
    """The edit, its object by all of its attributes and its place."""
    if edit.type == "background":
        return _of_background(target.background)
    if edit.operation in WHOLE:
        return WHOLE[edit.operation]
    if edit.before is None:
        assert edit.after is not None  # an edit of an object has one before, after or both
        return f"add {with_article(noun(edit.after))} {AT_PLACE[edit.after.place]}"
    operation = edit.operation
    if operation == "match":
        odd = odd_attribute(source)
        assert odd is not None  # others are never matched
        operation = {"colour": "recolour", "shape": "replace"}[odd[0]]
    return _of_thing(operation, f"the {noun(edit.before)} {AT_PLACE[edit.before.place]}", edit.after, edit.type)


def expressive_blind(edit: Edit) -> str:
    """A visual edit as one who cannot see must leave it: its object is still "the odd one out"."""
    return _of_thing(edit.operation, f"the {edit.referent}", edit.after, edit.type)


def _of_thing(operation: str, it: str, after: Thing | None, edit_type: str) -> str:
    if operation == "match":
        return f"make {it} match the others"
    if after is None:
        return f"remove {it}"
    if operation == "replace":
        form = ("shape",) if edit_type == "visual" else ("colour", "shape")
        return f"replace {it} with {with_article(named(after, form, {}))}"
    if operation == "move":
        return f"move {it} to the {after.place}"
    if operation == "outline":
        return f"draw a black outline around {it}"
    return f"make {it} {after.size if operation == 'resize' else after.colour}"


def _of_background(background: Background) -> str:
    if background.kind == "gradient":
        return f"make the background fade from {background.first} to {background.second}"
    if background.kind == "texture":
        return f"replace the background with {PHOTOGRAPHS[background.photograph].words}"
    return f"make the background {background.first}"
