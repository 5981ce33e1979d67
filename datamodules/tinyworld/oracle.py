"""The oracle: from the scene graphs and the pixels, did the edit happen, and did the rest stay?

Success: the object asked for is there with its shape and colour (its size, its outline, its new place where the edit is
about them), or is gone, and not to another place; the background is of the kind asked for; the effect lies over the
picture. Where an object is put in or changed, nothing is asked of the rest. After any other edit the picture must still
show the scene: at least half of the remaining objects (under an effect: of their shapes in their places), or a
photograph's light and dark.
Preservation: outside the edit's masks the pixels and the other objects are as in the source, and no part of the
background looks like anything else (nothing new stands there); after a change of the whole picture, the objects' shapes
and places, and on level plain that nothing new stands in the background. Thresholds by level: thresholds.yaml.
`python -m datamodules.tinyworld.oracle` prints the oracle's own errors.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from datamodules.tinyworld.edits import GLOBAL_TYPES, Edit
from datamodules.tinyworld.reading import Picture, Place, Reading, estimated_behind, grown, holds, read
from datamodules.tinyworld.render import draw_thing, render, render_background, silhouette, silhouettes
from datamodules.tinyworld.scene import SIDE, Scene, Thing, cell_centre
from datamodules.tinyworld.surfaces import (
    background_changed,
    block_means,
    effect_applied,
    farthest_patch,
    free_of_things,
    shows_background,
    structure_kept,
)
from datamodules.tinyworld.thresholds import Thresholds, thresholds


@dataclass(frozen=True, slots=True)
class Verdict:
    """`success`, `preservation`; `details`: the edited object is right in size and texture too (success where no object
    is edited); `kept`: share of the untouched objects that stand as before; `outside`: mean absolute difference from
    the source outside the edit in grey levels (0 for edits of the whole picture).
    """

    success: bool
    preservation: bool
    details: bool
    kept: float
    outside: float


@dataclass(frozen=True, slots=True)
class SceneVerdict:
    """Whether a scene is drawn: `objects_right` of `objects` have shape, colour and place; `correct` asks that of all,
    and that nothing stands elsewhere; `background` is judged apart.
    """

    correct: bool
    objects_right: int
    objects: int
    background: bool


def as_picture(image: ArrayLike) -> Picture:
    """[3, 64, 64] in [-1, 1] (numpy, or a torch tensor on the CPU) -> float32 [64, 64, 3] in 0..255.

    Raises ValueError on another shape or on values that are not finite.
    """
    values = np.asarray(image, dtype=np.float32)
    if values.shape != (3, SIDE, SIDE):
        raise ValueError(f"image: expected shape (3, {SIDE}, {SIDE}), found {values.shape}; resize it first")
    if not np.isfinite(values).all():
        raise ValueError("image: expected finite values in [-1, 1], found nan or infinity")
    return (values.transpose(1, 2, 0).clip(-1, 1) + 1) * 127.5


def judge(image: ArrayLike, metadata: dict[str, Any]) -> Verdict:
    """Judge an edited image, [3, 64, 64] in [-1, 1], against the metadata of its sample.

    `edits` in the place of `edit` are several edits of different objects, done at once: success asks for each of them,
    preservation for what lies outside of them all.

    Raises ValueError where the metadata is not the small world's, the image has another shape, or one of several edits
    is of more than an object.
    """
    if metadata.get("world") != "tinyworld":
        raise ValueError("metadata: expected that of a small world's sample (world: tinyworld), found another or none")
    picture = as_picture(image)
    source, target = Scene.from_dict(metadata["source_scene"]), Scene.from_dict(metadata["target_scene"])
    edits = edits_of(metadata)
    limits = thresholds(metadata.get("level", "full"))  # shards of before there were levels say none
    if edits[0].type == "background":
        return _judge_background(picture, source, target, limits)
    if edits[0].type in GLOBAL_TYPES:
        return _judge_global(picture, source, target, limits)
    return _judge_local(picture, source, target, edits, limits)


def edits_of(metadata: dict[str, Any]) -> list[Edit]:
    """The edit of a sample, or its several ones. Raises ValueError where one of several is of more than an object."""
    edits = [Edit.from_dict(each) for each in metadata.get("edits") or [metadata["edit"]]]
    if len(edits) > 1 and (wide := [edit.type for edit in edits if edit.type in ("background", *GLOBAL_TYPES)]):
        raise ValueError(f"metadata.edits: expected edits of objects where there are several, found {wide[0]!r}")
    return edits


def _judge_background(picture: Picture, source: Scene, target: Scene, limits: Thresholds) -> Verdict:
    rough = "texture" in (source.background.kind, target.background.kind)
    kept = _share(_found_on_its_own(picture, target, rough, limits))
    changed = background_changed(picture, source, target, limits) and shows_background(picture, target, limits)
    success = changed and kept >= limits.min_kept
    preserved = kept == 1.0 and farthest_patch(picture, source, target) <= limits.max_stray_whole
    return Verdict(success, preserved, success, kept, 0.0)


def _found_on_its_own(picture: Picture, scene: Scene, rough: bool, limits: Thresholds) -> list[bool]:
    """For each object whether it is there with its shape and colour, whatever the (perhaps rough) background is now."""
    behind = estimated_behind(picture, scene)

    def found(thing: Thing) -> bool:
        place = Place(picture, _with_others(behind, scene, thing), "", thing.place, limits, rough)
        return read(place, thing).is_like(thing)

    return [found(thing) for thing in scene.things]


def _judge_global(picture: Picture, source: Scene, target: Scene, limits: Thresholds) -> Verdict:
    applied = effect_applied(picture, source, target, limits)
    if not target.things:
        preserved = structure_kept(picture, source, target, limits)
        success = preserved and applied
        return Verdict(success, preserved, success, float(preserved), 0.0)
    under = {effect: _standing(picture, replace(target, effect=effect), limits) for effect in (target.effect, "")}
    success = under[target.effect] >= limits.min_kept and applied
    kept = max(under.values())
    shown = target if applied else source
    preserved = kept == 1.0 and farthest_patch(picture, source, shown) <= limits.max_stray_whole
    return Verdict(success, preserved, success, kept, 0.0)


def _standing(picture: Picture, scene: Scene, limits: Thresholds) -> float:
    """Share of a scene's objects whose shapes stand in their places under its effect."""
    behind = render_background(scene.background)

    def stands(thing: Thing) -> bool:
        place = Place(picture, _with_others(behind, scene, thing), scene.effect, thing.place, limits)
        return holds(place, thing)

    return _share(stands(thing) for thing in scene.things)


def _judge_local(picture: Picture, source: Scene, target: Scene, edits: Sequence[Edit], limits: Thresholds) -> Verdict:
    behind = render_background(target.background)
    new = [edit.after for edit in edits]
    others = [thing for thing in target.things if thing not in new]
    kept = _share(_read_in(picture, behind, target, thing, limits).is_like(thing) for thing in others)
    outside = _outside(picture, source, edits)
    preserved = kept == 1.0 and outside <= limits.max_outside
    preserved = preserved and farthest_patch(picture, source, target) <= limits.max_stray
    done = [_done(picture, behind, target, edit, kept, limits) for edit in edits]
    return Verdict(all(right for right, _ in done), preserved, all(exact for _, exact in done), kept, outside)


def _done(
    picture: Picture, behind: np.ndarray, target: Scene, edit: Edit, kept: float, limits: Thresholds
) -> tuple[bool, bool]:
    """Whether an edit of an object happened, and in size and texture too; `kept`: share of the untouched objects."""
    gone = edit.before is None or _gone(picture, behind, target, edit.before, limits)
    if edit.after is None:
        assert edit.before is not None  # what is neither before nor after is no edit of an object
        success = gone and kept >= limits.min_kept and not _elsewhere(picture, behind, target, edit.before, limits)
        return success, success
    reading = _read_in(picture, behind, target, edit.after, limits)
    success = reading.is_like(edit.after) and (edit.operation != "move" or gone)
    if edit.operation == "resize":
        success = success and reading.thing.size == edit.after.size
    if edit.operation == "outline":
        success = success and reading.thing.outlined
    return success, success and reading.agrees(edit.after)


def places_of(image: ArrayLike, scene: Scene, thing: Thing, level: str = "full") -> list[str]:
    """The free places of a scene of a level at which an object like `thing` is read in the image, [3, 64, 64].

    Raises ValueError on an image of another shape.
    """
    picture, limits, behind = as_picture(image), thresholds(level), render_background(scene.background)
    found = (thing_at(thing, place) for place in scene.free_places())
    return [each.place for each in found if _read_in(picture, behind, scene, each, limits).is_like(each)]


def thing_at(thing: Thing, place: str) -> Thing:
    """The object in the middle of another place."""
    x, y = cell_centre(place)
    return replace(thing, place=place, x=x, y=y)


def _read_in(picture: Picture, behind: np.ndarray, scene: Scene, thing: Thing, limits: Thresholds) -> Reading:
    return read(Place(picture, _with_others(behind, scene, thing), "", thing.place, limits), thing)


def _gone(picture: Picture, behind: np.ndarray, target: Scene, before: Thing, limits: Thresholds) -> bool:
    """Nothing of an object is left: the place is nearer to empty than to the object in any colour."""
    place = Place(picture, _with_others(behind, target, None), "", before.place, limits)
    projection, _ = place.evidence(before)
    area = silhouette(before)[place.rows, place.columns]
    left = np.square((place.seen - place.empty)[area]).sum()
    whole = np.square((place.draw(before) - place.empty)[area]).sum()
    return projection < limits.max_left and bool(left <= limits.max_left * whole)


def _elsewhere(picture: Picture, behind: np.ndarray, target: Scene, before: Thing, limits: Thresholds) -> bool:
    """Whether an object stands at a place that should be free: moved, not removed."""
    canvas = _with_others(behind, target, None)

    def stands_at(name: str) -> bool:
        return holds(Place(picture, canvas, "", name, limits), thing_at(before, name))

    return any(stands_at(name) for name in target.free_places() if name != before.place)


def _with_others(behind: np.ndarray, scene: Scene, thing: Thing | None) -> np.ndarray:
    """What is behind `thing`: the background with all other objects drawn on it."""
    canvas = behind.copy()
    for other in scene.things:
        if other != thing:
            draw_thing(canvas, other)
    return canvas


def _outside(picture: Picture, source: Scene, edits: Sequence[Edit]) -> float:
    """Mean absolute difference from the source away from the edited objects, by 4x4 block means."""
    inside = grown(silhouettes(thing for edit in edits for thing in (edit.before, edit.after) if thing is not None), 3)
    free = block_means((~inside).astype(np.float32)[..., None])[..., 0] == 1.0
    gap = np.abs(block_means(picture) - block_means(render(source).astype(np.float32)))
    return float(gap[free].mean())


def _share(found: Any) -> float:
    values = list(found)
    return sum(values) / len(values) if values else 1.0


def judge_scene(image: ArrayLike, scene: Scene | dict[str, Any], level: str = "full") -> SceneVerdict:
    """Is this scene of a level drawn in the image, [3, 64, 64] in [-1, 1]? For scenes without effect.

    Raises ValueError on an image of another shape and on a scene with an effect.
    """
    scene = scene if isinstance(scene, Scene) else Scene.from_dict(scene)
    if scene.effect:
        raise ValueError(f"scene: expected one without effect, found {scene.effect!r}")
    picture, limits = as_picture(image), thresholds(level)
    right = sum(_found_on_its_own(picture, scene, scene.background.kind == "texture", limits))
    clear = right == len(scene.things) and free_of_things(picture, scene, limits)
    return SceneVerdict(clear, right, len(scene.things), shows_background(picture, scene, limits))


if __name__ == "__main__":
    from datamodules.tinyworld.oracle_errors import main

    sys.exit(main())
