"""The oracle for instructions without places: an object that is added may stand wherever the source is free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.oracle import Verdict, as_picture, edits_of, judge, places_of, thing_at
from datamodules.tinyworld.reading import Picture
from datamodules.tinyworld.render import render, window
from datamodules.tinyworld.scene import Scene, Thing, cell_centre


def judge_multimodal_edit(image: ArrayLike, metadata: dict[str, Any]) -> Verdict:
    """As `oracle.judge`; of an added object the verdict at the place that speaks best for it: success, then the rest.

    Args:
        image: [3, 64, 64] in [-1, 1].
        metadata: of a sample of one of the worlds of any modality.

    Raises:
        ValueError: see `oracle.judge`.
    """
    facts = metadata | {"world": "tinyworld"}
    edit, source = Edit.from_dict(facts["edit"]), Scene.from_dict(facts["source_scene"])
    elsewhere = []
    if edit.operation == "add":
        assert edit.after is not None
        free = [place for place in source.free_places() if place != edit.after.place]
        elsewhere = [facts | _laid(source, [edit], [place]) for place in free]
    return _best(judge(image, each) for each in (facts, *elsewhere))


def judge_several_edits(image: ArrayLike, metadata: dict[str, Any]) -> Verdict:
    """As `judge_multimodal_edit` of several edits at once, each of which must have happened.

    An added object is sought at the places that are free once the others are removed: those at which one like it is
    read; where there is none, it is taken to be the one that has changed most.

    Args:
        image: [3, 64, 64] in [-1, 1].
        metadata: of a sample of the world of several edits.

    Raises:
        ValueError: see `oracle.judge`.
    """
    facts = metadata | {"world": "tinyworld"}
    edits, source = edits_of(facts), Scene.from_dict(facts["source_scene"])
    gone = {edit.before for edit in edits}
    rest = source.with_things(tuple(thing for thing in source.things if thing not in gone))
    added = [edit.after for edit in edits if edit.after is not None]
    found = [places_of(image, rest, thing, facts["level"]) for thing in added]
    by_change = _by_change(as_picture(image), source, rest.free_places())
    taken = {place for places in found for place in places}
    doubtful = (place for place in by_change if place not in taken)
    places = [each or [next(doubtful)] for each in found]
    apart = [choice for choice in product(*places) if len(set(choice)) == len(choice)]
    choices = apart or [tuple(by_change[: len(added)])]  # two may be read at one place alone
    return _best(judge(image, facts | _laid(source, edits, choice)) for choice in choices)


def _best(verdicts: Iterator[Verdict]) -> Verdict:
    return max(verdicts, key=lambda verdict: (verdict.success, verdict.preservation, verdict.details, verdict.kept))


def _laid(source: Scene, edits: Sequence[Edit], places: Sequence[str]) -> dict[str, Any]:
    """Edits and target as if the added objects had come to these places, without jitter."""
    left = iter(places)
    moved = [edit if edit.after is None else replace(edit, after=thing_at(edit.after, next(left))) for edit in edits]
    gone = {edit.before for edit in moved}
    new: tuple[Thing, ...] = tuple(edit.after for edit in moved if edit.after is not None)
    target = source.with_things((*(thing for thing in source.things if thing not in gone), *new))
    said = [edit.to_dict() for edit in moved]
    return {"target_scene": target.to_dict(), **({"edit": said[0]} if len(said) == 1 else {"edits": said})}


def _by_change(picture: Picture, source: Scene, places: Sequence[str]) -> list[str]:
    """Places, that first where the picture is farthest from the source."""
    gap = np.abs(picture - render(source).astype(np.float32)).mean(axis=2)

    def change(place: str) -> float:
        rows, columns, *_ = window(*cell_centre(place))
        return float(gap[rows, columns].mean())

    return sorted(places, key=change, reverse=True)
