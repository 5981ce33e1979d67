"""What another text would ask of a sample's picture: its metadata with that edit, for the oracle to judge by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datamodules.tinyworld.edit_grammar import ReadEdit, apply_edit, read_edit
from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.scene import ATMOSPHERES, PHOTOGRAPHIC, STYLES, Scene

_OF_THE_WHOLE = {"style": STYLES, "atmosphere": ATMOSPHERES, "photographic": PHOTOGRAPHIC}
_BACKGROUNDS = ("plain", "gradient", "texture")


def asked(text: str, metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Metadata of the sample whose source is the same and whose instruction is `text`.

    Args:
        text: an instruction as `edit_grammar.read_edit` understands it.
        metadata: of a sample of the small world.

    Returns:
        None where it is not of the small world, where the text is not understood, or where what it asks for cannot be
        done to this scene or changes nothing.
    """
    if metadata.get("world") != "tinyworld":
        return None
    source, read = Scene.from_dict(metadata["source_scene"]), read_edit(text)
    target = None if read is None else apply_edit(read, source)
    if read is None or target is None or target == source:
        return None
    found = _edit(read, source, target)
    return {**metadata, "edit": found.to_dict(), "target_scene": target.to_dict()}


def _edit(read: ReadEdit, source: Scene, target: Scene) -> Edit:
    """The edit between two scenes, under the name of its type."""
    for kind, operations in _OF_THE_WHOLE.items():
        if read.operation in operations:
            return Edit(kind, read.operation)
    if read.operation in _BACKGROUNDS:
        return Edit("background", "background")
    before = next((thing for thing in source.things if thing not in target.things), None)
    after = next((thing for thing in target.things if thing not in source.things), None)
    return Edit("visual" if read.referent else read.operation, read.operation, before, after, read.referent)
