"""Sample i of the world of several edits: two objects come, or go, or one of each, asked for in one instruction.

As in the world of any modality no instruction says a place; everything is said in words, and the picture to edit is the
source. `metadata.turn_instructions` asks for the same one after another, for `evaluate.py --turns`.
"""

from __future__ import annotations

from dataclasses import replace

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.expressive import expressive
from datamodules.tinyworld.layout import Rules, draw_scene, random_thing
from datamodules.tinyworld.multimodal_samples import SPLITS, TEMPLATES, is_told, thing_meant
from datamodules.tinyworld.sample import MAX_ATTEMPTS, Sample, assemble, edit_masks, object_phrase
from datamodules.tinyworld.scene import Scene
from datamodules.tinyworld.split_hash import check_split
from datamodules.tinyworld.splits import belongs, split_rules
from datamodules.tinyworld.world import World

TYPES = {"add two": ("add", "add"), "remove two": ("remove", "remove"), "add and remove": ("add", "remove")}
"""Edit types, and what each does."""
OBJECTS = {"add two": 1, "remove two": 3, "add and remove": 2}
"""Of the source: one stays in the picture whatever is done, so that there is something to keep."""
BASE = "the picture"


def draw_several_sample(seed: int, split: str, index: int) -> Sample:
    """One sample as `multimodal_samples.draw_multimodal_sample` makes them, with two edits.

    Its masks hold both, and `metadata.edits` stands in the place of `edit`. Raises ValueError on an unknown split.
    """
    check_split(split, SPLITS)
    world, draws = World(seed, "plain"), Draws(seed, f"several/{split}", index)
    edit_type = draws.choice(tuple(TYPES))
    source, target, edits = _pair(draws, split, world, edit_type)
    sample = assemble(world, split, index, draws, "literal", (source, target, edits[0]))
    words = Draws(seed, f"several/words/{split}", index)
    masks = zip(*(edit_masks(source, target, edit) for edit in edits), strict=True)
    metadata = {name: value for name, value in sample["metadata"].items() if name != "edit"}
    said = {"world": "multimodal_several", "kind": "multimodal", "modality": "text"}
    turns = [_ask(words, edit.type, thing_meant(edit), BASE) for edit in edits]
    return sample | {
        "key": f"several-{split}-{index:08d}",
        "instruction": _ask_at_once(words, edits),
        "expressive": " and ".join(expressive(edit, source, target) for edit in edits),
        "edit_type": edit_type,
        "object_phrase": " and ".join(object_phrase(target, edit) for edit in edits),
        **{name: one | other for name, (one, other) in zip(("target_mask", "reference_mask"), masks, strict=True)},
        "metadata": metadata | said | {"edits": [edit.to_dict() for edit in edits], "turn_instructions": turns},
    }


def _pair(draws: Draws, split: str, world: World, edit_type: str) -> tuple[Scene, Scene, list[Edit]]:
    rules = replace(split_rules(split, world), max_things=3)
    for _ in range(MAX_ATTEMPTS):
        source = draw_scene(draws, rules, OBJECTS[edit_type])
        edits = _edits(draws, source, TYPES[edit_type], rules)
        after, gone = [edit.after for edit in edits if edit.after is not None], [edit.before for edit in edits]
        target = source.with_things((*(thing for thing in source.things if thing not in gone), *after))
        apart = len({thing_meant(edit).partition(" ")[2] for edit in edits}) == len(edits)
        if apart and all(is_told(source, edit) for edit in edits) and belongs(split, source, target):
            return source, target, edits
    raise RuntimeError(f"several: no way to {edit_type} found for split {split!r}")


def _edits(draws: Draws, source: Scene, operations: tuple[str, ...], rules: Rules) -> list[Edit]:
    """One edit an operation, of different objects, in any order."""
    places = draws.pick(source.free_places(), operations.count("add"))
    new = [random_thing(draws, place, source.background, rules, jitter=False) for place in places]
    old = draws.pick(source.things, operations.count("remove"))
    edits = [*(Edit("add", "add", after=thing) for thing in new), *(Edit("remove", "remove", thing) for thing in old)]
    return draws.pick(edits, len(edits))


def _ask(words: Draws, operation: str, item: str, base: str) -> str:
    return words.choice(TEMPLATES[operation]).format(item=item, base=base)


def _ask_at_once(words: Draws, edits: list[Edit]) -> str:
    """Both in one instruction: two objects behind one verb, or two clauses."""
    items = [thing_meant(edit) for edit in edits]
    if len({edit.type for edit in edits}) == 1:
        return _ask(words, edits[0].type, " and ".join(items), BASE)
    first, second = (
        _ask(words, edit.type, item, base) for edit, item, base in zip(edits, items, (BASE, "it"), strict=True)
    )
    return f"{first} and {second}"
