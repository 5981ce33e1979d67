"""The oracle for instructions without places: an object that is added may stand wherever the source is free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from numpy.typing import ArrayLike

from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.oracle import Verdict, judge
from datamodules.tinyworld.scene import Scene, cell_centre


def judge_multimodal_edit(image: ArrayLike, metadata: dict[str, Any]) -> Verdict:
    """As `oracle.judge`; of an added object the verdict at the place that speaks best for it: success, then the rest.

    Args:
        image: [3, 64, 64] in [-1, 1].
        metadata: of a sample of one of the worlds of any modality.

    Raises:
        ValueError: see `oracle.judge`.
    """
    facts = metadata | {"world": "tinyworld"}
    verdicts = [judge(image, facts), *(judge(image, elsewhere) for elsewhere in _added_elsewhere(facts))]
    return max(verdicts, key=lambda verdict: (verdict.success, verdict.preservation, verdict.details, verdict.kept))


def _added_elsewhere(facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The facts as if the object were to come to each other free place, without jitter."""
    edit, source = Edit.from_dict(facts["edit"]), Scene.from_dict(facts["source_scene"])
    if edit.operation != "add":
        return
    assert edit.after is not None
    for place in source.free_places():
        if place == edit.after.place:
            continue
        x, y = cell_centre(place)
        thing = replace(edit.after, place=place, x=x, y=y)
        target = source.with_things((*source.things, thing))
        yield facts | {"edit": replace(edit, after=thing).to_dict(), "target_scene": target.to_dict()}
