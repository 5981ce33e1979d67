"""What is right by chance where an instruction does not say which object it means: an editor that draws one of them.

It does to that object what the sample's edit does to the one that is meant, and renders the scene: all else that an
editor could do wrong it does right. So its score is what guessing the object is worth.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from datamodules.schema import Batch
from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.oracle_errors import as_image
from datamodules.tinyworld.render import render
from datamodules.tinyworld.scene import Scene, fields_of
from mmig.diffusion.sampling import per_sample
from mmig.editor import EditOutput, NoSettings, ResponseSource


def done_to(number: int, edit: Edit, source: Scene) -> Scene:
    """The scene with an edit of its objects done to the one of that number in place of the one that is meant.

    Raises:
        ValueError: the edit is of no object of the scene.
    """
    if edit.before is None:
        raise ValueError(f"chance: expected an edit of an object, as in configs/data/visual.yaml, found {edit.type!r}")
    thing = source.things[number]
    rest = tuple(other for other in source.things if other != thing)
    if edit.after is None:
        return source.with_things(rest)
    before, after = fields_of(edit.before), fields_of(edit.after)
    changed = {name: value for name, value in after.items() if value != before[name]}
    return source.with_things((*rest, replace(thing, **changed)))


class Chance:
    """Does each edit to an object that it draws."""

    sampling = NoSettings()
    required_fields: tuple[str, ...] = ("source", "metadata")
    response_source: ResponseSource = "none"

    def __call__(self, batch: Batch, generator: torch.Generator | Sequence[torch.Generator]) -> EditOutput:
        """The scenes in which some object was edited.

        Raises:
            ValueError: a sample that is no edit of an object of the small world.
        """
        pictures = []
        for facts, own in zip(batch["metadata"], per_sample(generator, len(batch["key"])), strict=True):
            if not facts or facts.get("world") != "tinyworld":
                raise ValueError("chance: expected samples of the small world, with their scenes in `metadata`")
            source = Scene.from_dict(facts["source_scene"])
            number = int(torch.randint(len(source.things), (), generator=own))
            scene = done_to(number, Edit.from_dict(facts["edit"]), source)
            pictures.append(torch.from_numpy(as_image(render(scene))))
        return EditOutput(torch.stack(pictures).to(batch["source"].device), [""] * len(pictures))
