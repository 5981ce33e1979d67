"""Sample i of the world of any modality: an edit of a whole scene whose objects and effects are words, pictures or
sounds, and whose picture to edit is an attached one among others.

What InstructAny2Pix (Li et al. 2023, section 3.4.3) calls scene-level: a background, a style, an atmosphere, an object
that comes or goes. No instruction says a place, for one vector of a picture can carry none. Scenes, descriptions and
metadata are those of the small world, so that its oracle judges them (multimodal_judge.py).
"""

from __future__ import annotations

from typing import Any, Literal

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.edits import GLOBAL_TYPES, Edit
from datamodules.tinyworld.layout import Rules, draw_scene, put
from datamodules.tinyworld.long_instructions import in_a_story
from datamodules.tinyworld.render import render
from datamodules.tinyworld.sample import Pair, Sample, assemble, find_pair
from datamodules.tinyworld.scene import Background, Scene
from datamodules.tinyworld.sounds import FORMAT, sound
from datamodules.tinyworld.split_hash import check_split
from datamodules.tinyworld.splits import split_rules
from datamodules.tinyworld.words import with_article
from datamodules.tinyworld.world import World

Modality = Literal["text", "image", "audio"]
SPLITS = ("train", "val", "test")
TYPES = ("add", "remove", "background", "style", "atmosphere")
HEARD_TYPES = ("add", "remove", "style", "atmosphere")
"""Types of edits of which the object or effect can be said, shown and heard."""
ATTACHED = 80
"""Percent of the instructions with a picture or a sound in place of words; of the others, words (as released)."""
UNSAID = 20
"""Percent of the instructions that do not mention the picture to edit: it is the source, and no attachment."""
# {item}: the object, background or effect; {base}: the picture to edit.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "add": ("add {item} to {base}", "put {item} into {base}", "place {item} in {base}"),
    "remove": ("remove {item} from {base}", "erase {item} from {base}", "take {item} out of {base}"),
    "background": ("change the background of {base} to {item}", "give {base} {item}"),
    "effect": ("give {base} the look of {item}", "make {base} look like {item}", "change {base} to look like {item}"),
}


def draw_multimodal_sample(seed: int, split: str, index: int) -> Sample:
    """One sample as `sample.draw_sample` makes them; its object or effect in words, or attached.

    Raises ValueError on an unknown split.
    """
    return _draw(seed, split, index, TYPES, None)


def draw_multimodal_sample_in_words(seed: int, split: str, index: int) -> Sample:
    """The edit of `draw_multimodal_sample`, in words."""
    return _draw(seed, split, index, TYPES, "text")


def draw_said_sample(seed: int, split: str, index: int) -> Sample:
    """The edit of `draw_shown_sample` and of `draw_heard_sample`, in words."""
    return _draw(seed, split, index, HEARD_TYPES, "text")


def draw_shown_sample(seed: int, split: str, index: int) -> Sample:
    """The same edit, its object or effect as a picture."""
    return _draw(seed, split, index, HEARD_TYPES, "image")


def draw_heard_sample(seed: int, split: str, index: int) -> Sample:
    """The same edit, its object or effect as a sound."""
    return _draw(seed, split, index, HEARD_TYPES, "audio")


def draw_long_sample(seed: int, split: str, index: int) -> Sample:
    """The edit of `draw_said_sample` in the same words, inside of a text of several sentences."""
    sample = draw_said_sample(seed, split, index)
    told = in_a_story(Draws(seed, f"multimodal/story/{split}", index), sample["instruction"])
    return sample | {"instruction": told, "metadata": sample["metadata"] | {"said": sample["instruction"]}}


def _draw(seed: int, split: str, index: int, types: tuple[str, ...], modality: Modality | None) -> Sample:
    check_split(split, SPLITS)
    world = World(seed, "plain")
    draws = Draws(seed, f"multimodal/{split}", index)
    pair = _pair(draws, split, world, types)
    sample = assemble(world, split, index, draws, "literal", pair)
    words = Draws(seed, f"multimodal/words/{split}", index)  # its own: all modalities say it in one wording
    template = words.choice(TEMPLATES["effect" if pair[2].type in GLOBAL_TYPES else pair[2].type])
    mentioned, base_first = not words.chance(UNSAID), words.chance(50)
    modality = modality or _modality(words, pair[2])
    item = None if modality == "text" else _attachment(words, seed, split, index, pair, modality)
    attached = [entry for entry in (_base(pair) if mentioned else None, item) if entry is not None]
    if not base_first:
        attached.reverse()
    marks = {entry["role"]: f"<{entry['kind']}:{number}>" for number, entry in enumerate(attached)}
    base = marks.get("base", "the picture")
    facts = {"world": "multimodal", "kind": "multimodal", "modality": modality, "item": _meant(pair)}
    instruction = template.format(item=_item(pair, modality, marks.get("reference", "")), base=base)
    return sample | {
        "key": f"multimodal-{split}-{index:08d}",
        "instruction": instruction,
        "attachments": attached,
        "metadata": sample["metadata"] | facts,
    }


def _pair(draws: Draws, split: str, world: World, types: tuple[str, ...]) -> Pair:
    rules, edit_type = split_rules(split, world), draws.choice(types)

    def fits(source: Scene, target: Scene, edit: Edit) -> bool:
        if edit_type == "background":
            return target.background.kind == "plain"
        return edit_type in GLOBAL_TYPES or is_told(source, edit)

    found = find_pair(draws, edit_type, split, rules, fits)
    if found is None:
        raise RuntimeError(f"multimodal: no {edit_type} edit found for split {split!r}")
    return found


def is_told(source: Scene, edit: Edit) -> bool:
    """Whether colour and shape tell the object of an edit from all others of its scene."""
    thing = edit.before or edit.after
    assert thing is not None
    same = [other for other in source.things if (other.colour, other.shape) == (thing.colour, thing.shape)]
    return len(same) == (1 if edit.type == "remove" else 0)


def _modality(draws: Draws, edit: Edit) -> Modality:
    if not draws.chance(ATTACHED):
        return "text"
    return "image" if edit.type == "background" or draws.chance(50) else "audio"


def _base(pair: Pair) -> dict[str, Any]:
    return {"kind": "image", "role": "base", "data": render(pair[0])}


def _attachment(draws: Draws, seed: int, split: str, index: int, pair: Pair, modality: Modality) -> dict[str, Any]:
    """What shows or sounds like the object, background or effect of an edit."""
    if modality == "audio":
        name = _heard(pair)
        data: Any = sound(Draws(seed, f"multimodal/{split}/{name}", index), name)
        return {"kind": "audio", "role": "reference", "data": data, "format": FORMAT}
    return {"kind": "image", "role": "reference", "data": render(_shown(draws, pair))}


def _shown(draws: Draws, pair: Pair) -> Scene:
    """A scene that shows nothing but what is meant: the object elsewhere, the empty background, the effect."""
    source, target, edit = pair
    if edit.type == "background":
        return Scene(target.background)
    if edit.type in GLOBAL_TYPES:
        other = draw_scene(draws, Rules(photographs=False, plain=True), 1)
        return Scene(other.background, other.things, edit.operation)
    thing = edit.before or edit.after
    assert thing is not None
    background = Background("plain", first="grey" if source.background.first != "grey" else "white")
    return Scene(background).with_things((put(draws, thing, "centre", jitter=True),))


def _heard(pair: Pair) -> str:
    """The name of the sound."""
    thing = pair[2].before or pair[2].after
    return pair[2].operation if thing is None else thing.shape


def _item(pair: Pair, modality: Modality, mark: str) -> str:
    """The words or the placeholder for what is meant; a sound says a shape, beside whose colour it stands."""
    thing = pair[2].before or pair[2].after
    if modality == "text" or (modality == "audio" and thing is not None):
        word = f"{mark} shape".strip() if thing is not None and modality == "audio" else ""
        return _meant(pair) if not word else _with_determiner(pair[2], f"{thing.colour} {word}")
    return mark


def _meant(pair: Pair) -> str:
    """What is meant, in words."""
    _, target, edit = pair
    if edit.before is not None or edit.after is not None:
        return thing_meant(edit)
    return f"a {target.background.first} background" if edit.type == "background" else edit.operation


def thing_meant(edit: Edit) -> str:
    """The object that comes or goes, in words: "a red circle", "the red circle"."""
    thing = edit.before or edit.after
    assert thing is not None
    return _with_determiner(edit, f"{thing.colour} {thing.shape}")


def _with_determiner(edit: Edit, phrase: str) -> str:
    return f"the {phrase}" if edit.type == "remove" else with_article(phrase)
