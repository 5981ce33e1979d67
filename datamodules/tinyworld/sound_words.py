"""What sounds are asked for with: instructions in which a sound stands for a shape, a colour or an effect."""

from __future__ import annotations

# {it}: the object meant, with "the"; {thing}: what is added, its shape's word being "shape" behind the placeholder;
# {at}: where; {sound}: the placeholder, directly before a word (to which it then belongs) or alone at the end.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "add": ("add {thing} {at}", "put {thing} {at}", "draw {thing} {at}", "place {thing} {at}"),
    "replace": (
        "replace {it} with a {sound} shape",
        "turn {it} into a {sound} shape",
        "swap {it} for the shape that sounds like {sound}",
        "give {it} the shape that you hear in {sound}",
    ),
    "recolour": (
        "give {it} the {sound} colour",
        "change the colour of {it} to the {sound} colour",
        "make {it} the colour that sounds like {sound}",
        "paint {it} in the colour that you hear in {sound}",
    ),
    "effect": (
        "give the picture the {sound} look",
        "make the picture look like {sound}",
        "change the picture as you hear in {sound}",
    ),
}
