"""Sample i of the world of sounds: a plain edit in which a sound says which shape, colour or effect is meant.

Scenes, masks, descriptions and metadata are those of the small world, so its oracle judges them. A placeholder stands
directly before a word, to which the sound then belongs, or alone at the end.
"""

from __future__ import annotations

from datamodules.placeholders import placeholders
from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.edits import GLOBAL_TYPES, Edit
from datamodules.tinyworld.instructions import refer
from datamodules.tinyworld.sample import Pair, Sample, assemble, find_pair
from datamodules.tinyworld.scene import Scene, Thing
from datamodules.tinyworld.sounds import FORMAT, sound
from datamodules.tinyworld.split_hash import check_split
from datamodules.tinyworld.splits import split_rules
from datamodules.tinyworld.words import AT_PLACE
from datamodules.tinyworld.world import World

SPLITS = ("train", "val", "test")
TYPES = ("add", "replace", "recolour", "style", "atmosphere")
SOUND = "<audio:0>"
# {it}: the object meant, with "the"; {thing}: the new object with "a", the sound in place of its shape; {colour}: its
# colour; {at}: its place; {sound}: the sound.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "add": ("add {thing} {at}", "put {thing} {at}", "draw {thing} {at}", "place {thing} {at}"),
    "replace": (
        "replace {it} with {thing}",
        "turn {it} into {thing}",
        "swap {it} for the {colour} shape that sounds like {sound}",
        "change {it} into the {colour} shape that you hear in {sound}",
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


def draw_sound_sample(seed: int, split: str, index: int) -> Sample:
    """One sample as `sample.draw_sample` makes them, with one attached sound.

    Raises ValueError on an unknown split.
    """
    check_split(split, SPLITS)
    world = World(seed, "plain")
    draws = Draws(seed, f"sounds/{split}", index)
    source, target, edit = _pair(draws, split, world)
    name = meant_by_sound(edit)
    instruction = instruct(draws, edit, source)
    sample = assemble(world, split, index, draws, "literal", (source, target, edit))
    heard = {
        "kind": "audio",
        "role": "reference",
        "data": sound(Draws(seed, f"sounds/{split}/{name}", index), name),
        "format": FORMAT,
        "word": placeholders(instruction)[0].word,
    }
    return sample | {
        "key": f"sounds-{split}-{index:08d}",
        "instruction": instruction,
        "attachments": [heard],
        "metadata": sample["metadata"] | {"kind": "sound", "sound": name},
    }


def _pair(draws: Draws, split: str, world: World) -> Pair:
    rules, edit_type = split_rules(split, world), draws.choice(TYPES)
    found = find_pair(draws, edit_type, split, rules, lambda *_: True)
    if found is None:
        raise RuntimeError(f"sounds: no {edit_type} edit found for split {split!r}")
    return found


def meant_by_sound(edit: Edit) -> str:
    """The shape, colour or effect that the sound of an edit stands for."""
    if edit.type in GLOBAL_TYPES or edit.after is None:
        return edit.operation
    return edit.after.colour if edit.type == "recolour" else edit.after.shape


def instruct(draws: Draws, edit: Edit, source: Scene) -> str:
    """The instruction that asks for an edit with a sound in place of a word."""
    templates = TEMPLATES["effect" if edit.type in GLOBAL_TYPES else edit.type]
    it, thing, colour, at = "", "", "", ""
    if edit.before is not None:
        it = f"the {refer(draws, edit.before, source)}"
    if edit.after is not None:
        thing, colour, at = _thing(edit.type, edit.after), edit.after.colour, AT_PLACE[edit.after.place]
    return draws.choice(templates).format(it=it, thing=thing, colour=colour, at=at, sound=SOUND)


def _thing(edit_type: str, after: Thing) -> str:
    size = f"{after.size} " if edit_type == "add" else ""
    article = "an" if (size or after.colour)[0] in "aeiou" else "a"
    return f"{article} {size}{after.colour} {SOUND} shape"
