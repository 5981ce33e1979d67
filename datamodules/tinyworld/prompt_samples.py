"""Sample i of the world of prompts: one centred object, and one of a few edits that are asked for by a target text.

What StyleCLIP's mapper needs, which is trained for one text: every picture with the same prompt is to change in the
same attribute, and to keep all others.
"""

from __future__ import annotations

from typing import NamedTuple

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.sample import Pair, Sample, assemble, find_pair
from datamodules.tinyworld.scene import Scene
from datamodules.tinyworld.split_hash import check_split
from datamodules.tinyworld.splits import split_rules
from datamodules.tinyworld.world import World

SPLITS = ("train", "val", "test")


class Prompt(NamedTuple):
    """A target text, and the edit that it asks for: its type, and what the object or the background is afterwards."""

    text: str
    edit_type: str
    value: str

    def is_met(self, source: Scene, target: Scene, edit: Edit) -> bool:
        """Whether an edit of the type does what the text asks for, and nothing else to the object."""
        if self.edit_type == "background":
            return target.background.first == self.value
        assert edit.before is not None and edit.after is not None
        changed = {"recolour": edit.after.colour, "resize": edit.after.size, "replace": edit.after.shape}
        return changed[self.edit_type] == self.value and (
            self.edit_type != "replace" or edit.after.colour == edit.before.colour
        )


PROMPTS = {
    "red": Prompt("a red shape in the centre", "recolour", "red"),
    "circle": Prompt("a circle in the centre", "replace", "circle"),
    "large": Prompt("a large shape in the centre", "resize", "large"),
    "navy": Prompt("a navy background", "background", "navy"),
}
"""By name, which is the samples' type of edit; in their order by turns."""


def draw_prompt_sample(seed: int, split: str, index: int) -> Sample:
    """One sample as `sample.draw_sample` makes them; its instruction is the prompt.

    Raises ValueError on an unknown split.
    """
    check_split(split, SPLITS)
    name = tuple(PROMPTS)[index % len(PROMPTS)]
    world = World(seed, "plain", centred=True)
    draws = Draws(seed, f"prompts/{split}", index)
    sample = assemble(world, split, index, draws, "literal", _pair(draws, split, world, PROMPTS[name]))
    return sample | {"key": f"prompts-{split}-{index:08d}", "instruction": PROMPTS[name].text, "edit_type": name}


def _pair(draws: Draws, split: str, world: World, prompt: Prompt) -> Pair:
    found = find_pair(draws, prompt.edit_type, split, split_rules(split, world), prompt.is_met)
    if found is None:
        raise RuntimeError(f"prompts: no edit found for {prompt.text!r}, split {split!r}")
    return found
