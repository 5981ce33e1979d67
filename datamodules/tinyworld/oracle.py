"""The oracle: from the scene graphs and the pixels, did the edit happen, and did the rest stay?

Success: the object asked for is there with its shape and colour (its size, its outline, its new place where the edit is
about them), or is gone; the background is of the kind asked for; the effect lies over the picture. Where an object is
put in or changed, nothing is asked of the rest. After any other edit the picture must still show the scene: at least
half of the remaining objects (under an effect: of their shapes in their places), or a photograph's light and dark.
Preservation: outside the edit's masks the pixels and the other objects are as in the source; after a change of the
whole picture, the objects' shapes and places.
`python -m datamodules.tinyworld.oracle` prints the oracle's own errors.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from datamodules.tinyworld.edits import GLOBAL_TYPES, Edit
from datamodules.tinyworld.reading import Picture, Place, Reading, estimated_behind, grown, holds, read
from datamodules.tinyworld.render import draw_thing, render, render_background, silhouette, silhouettes
from datamodules.tinyworld.scene import SIDE, Scene, Thing
from datamodules.tinyworld.surfaces import (
    background_changed,
    block_means,
    effect_applied,
    free_of_things,
    shows_background,
    structure_kept,
)

MAX_OUTSIDE = 12.0  # mean absolute difference of 4x4 block means outside the edit, in grey levels


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

    Raises ValueError where the metadata is not the small world's or the image has another shape.
    """
    if metadata.get("world") != "tinyworld":
        raise ValueError("metadata: expected that of a small world's sample (world: tinyworld), found another or none")
    picture = as_picture(image)
    source, target = Scene.from_dict(metadata["source_scene"]), Scene.from_dict(metadata["target_scene"])
    edit = Edit.from_dict(metadata["edit"])
    if edit.type == "background":
        return _judge_background(picture, source, target)
    if edit.type in GLOBAL_TYPES:
        return _judge_global(picture, source, target)
    return _judge_local(picture, source, target, edit)


def _judge_background(picture: Picture, source: Scene, target: Scene) -> Verdict:
    rough = "texture" in (source.background.kind, target.background.kind)
    kept = _share(_found_on_its_own(picture, target, rough))
    changed = background_changed(picture, source, target) and shows_background(picture, target)
    success = changed and kept >= 0.5
    return Verdict(success, kept == 1.0, success, kept, 0.0)


def _found_on_its_own(picture: Picture, scene: Scene, rough: bool) -> list[bool]:
    """For each object whether it is there with its shape and colour, whatever the (perhaps rough) background is now."""
    behind = estimated_behind(picture, scene)
    places = (Place(picture, _with_others(behind, scene, thing), "", thing.place, rough) for thing in scene.things)
    return [read(place, thing).is_like(thing) for place, thing in zip(places, scene.things, strict=True)]


def _judge_global(picture: Picture, source: Scene, target: Scene) -> Verdict:
    if not target.things:
        preserved = structure_kept(picture, source, target)
        success = preserved and effect_applied(picture, source, target)
        return Verdict(success, preserved, success, float(preserved), 0.0)
    under = [_standing(picture, target, effect) for effect in (target.effect, "")]
    success = under[0] >= 0.5 and effect_applied(picture, source, target)
    kept = max(under)
    return Verdict(success, kept == 1.0, success, kept, 0.0)


def _standing(picture: Picture, scene: Scene, effect: str) -> float:
    """Share of a scene's objects whose shapes stand in their places under an effect."""
    behind = render_background(scene.background)
    return _share(
        holds(Place(picture, _with_others(behind, scene, thing), effect, thing.place), thing) for thing in scene.things
    )


def _judge_local(picture: Picture, source: Scene, target: Scene, edit: Edit) -> Verdict:
    behind = render_background(target.background)
    others = [thing for thing in target.things if thing != edit.after]
    kept = _share(_read_in(picture, behind, target, thing).is_like(thing) for thing in others)
    outside = _outside(picture, source, edit)
    gone = edit.before is None or _gone(picture, behind, target, edit.before)
    if edit.after is None:
        success = gone and kept >= 0.5
        return Verdict(success, kept == 1.0 and outside <= MAX_OUTSIDE, success, kept, outside)
    reading = _read_in(picture, behind, target, edit.after)
    success = reading.is_like(edit.after) and (edit.operation != "move" or gone)
    if edit.operation == "resize":
        success = success and reading.thing.size == edit.after.size
    if edit.operation == "outline":
        success = success and reading.thing.outlined
    preserved = kept == 1.0 and outside <= MAX_OUTSIDE
    return Verdict(success, preserved, success and reading.agrees(edit.after), kept, outside)


def _read_in(picture: Picture, behind: np.ndarray, scene: Scene, thing: Thing) -> Reading:
    return read(Place(picture, _with_others(behind, scene, thing), "", thing.place), thing)


def _gone(picture: Picture, behind: np.ndarray, target: Scene, before: Thing) -> bool:
    """Nothing of an object is left: the place is nearer to empty than to the object in any colour."""
    place = Place(picture, _with_others(behind, target, None), "", before.place)
    projection, _ = place.evidence(before)
    area = silhouette(before)[place.rows, place.columns]
    left = np.square((place.seen - place.empty)[area]).sum()
    whole = np.square((place.draw(before) - place.empty)[area]).sum()
    return projection < 0.4 and bool(left <= 0.4 * whole)


def _with_others(behind: np.ndarray, scene: Scene, thing: Thing | None) -> np.ndarray:
    """What is behind `thing`: the background with all other objects drawn on it."""
    canvas = behind.copy()
    for other in scene.things:
        if other != thing:
            draw_thing(canvas, other)
    return canvas


def _outside(picture: Picture, source: Scene, edit: Edit) -> float:
    """Mean absolute difference from the source away from the edited object, by 4x4 block means."""
    inside = grown(silhouettes(thing for thing in (edit.before, edit.after) if thing is not None), 3)
    free = block_means((~inside).astype(np.float32)[..., None])[..., 0] == 1.0
    gap = np.abs(block_means(picture) - block_means(render(source).astype(np.float32)))
    return float(gap[free].mean())


def _share(found: Any) -> float:
    values = list(found)
    return sum(values) / len(values) if values else 1.0


def judge_scene(image: ArrayLike, scene: Scene | dict[str, Any]) -> SceneVerdict:
    """Is this scene drawn in the image, [3, 64, 64] in [-1, 1]? For scenes without effect.

    Raises ValueError on an image of another shape and on a scene with an effect.
    """
    scene = scene if isinstance(scene, Scene) else Scene.from_dict(scene)
    if scene.effect:
        raise ValueError(f"scene: expected one without effect, found {scene.effect!r}")
    picture = as_picture(image)
    right = sum(_found_on_its_own(picture, scene, scene.background.kind == "texture"))
    clear = right == len(scene.things) and free_of_things(picture, scene)
    return SceneVerdict(clear, right, len(scene.things), shows_background(picture, scene))


if __name__ == "__main__":
    from datamodules.tinyworld.oracle_errors import main

    sys.exit(main())
