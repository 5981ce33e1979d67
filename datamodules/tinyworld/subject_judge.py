"""How near the texture in a picture is to the subject that was shown, against other textures.

The subject must explain the object's pixels better than rivals of the family do (most of them in its own two colours)
and than one flat colour does. Where the texture begins on the object does not matter, for no picture could say it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.effects import Pixels
from datamodules.tinyworld.layout import MIN_CONTRAST
from datamodules.tinyworld.oracle import Verdict, as_picture
from datamodules.tinyworld.reading import Picture, Place, blurred, grown, read
from datamodules.tinyworld.render import REACH, silhouette, silhouettes, window
from datamodules.tinyworld.scene import BACKGROUND_COLOURS, SHAPES, SIZES, Scene, Thing
from datamodules.tinyworld.subjects import (
    ANGLES,
    COLOURS,
    Texture,
    draw_texture,
    has_second_colour,
    in_order,
    places,
    render_with_subjects,
)
from datamodules.tinyworld.surfaces import block_means
from datamodules.tinyworld.thresholds import thresholds

STRANGERS = 8  # rivals in other colours
Textures = dict[Thing, Texture]
SAMPLES = 2  # a pixel and direction, enough for comparisons
SHIFTS = (-2, -1, 0, 1, 2)  # pixels that an object may stand off its place
MIN_OVERLAP = 0.7  # of an object's silhouette and what stands out at its place: common pixels over all of both
MIN_ANGLE = 60  # degrees between a texture and a rival of the same pattern and period


@dataclass(frozen=True, slots=True)
class TextureVerdict:
    """`nearness`: share of the rivals (flat colour included) that are farther off than the subject; `nearest`: all of
    them; `error`: root mean square difference to the subject's texture, in grey levels.
    """

    nearest: bool
    nearness: float
    error: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """How a picture fits what it was drawn from, each in [0,1].

    Attributes:
        fidelity: mean over the subjects of `TextureVerdict.nearness`, 0 where the shape is not there.
        alignment: share of what the text says that is there: each object's shape at its place (its colour too, of those
            that are no subject) and the background.
    """

    fidelity: float
    alignment: float


def judge_texture(image: ArrayLike, thing: Thing, texture: Texture) -> TextureVerdict:
    """Whether the object at the place of `thing` shows `texture`; image [3, 64, 64] in [-1, 1].

    Raises ValueError on an image of another shape.
    """
    rows, columns, tile_rows, tile_columns = window(thing.x, thing.y)
    inner = _shrunk(silhouette(thing)[rows, columns])
    seen = as_picture(image)[rows, columns][inner]
    area = (tile_rows, tile_columns, inner)
    own = _error(seen, texture, area)
    flat = float(np.square(seen - seen.mean(axis=0)).sum(axis=1).mean())
    others = [flat, *(_error(seen, rival, area) for rival in rivals(texture))]
    farther = sum(error > own for error in others)
    return TextureVerdict(farther == len(others), farther / len(others), (own / 3) ** 0.5)


def judge_subjects(image: ArrayLike, metadata: dict[str, Any]) -> list[TextureVerdict]:
    """The verdicts on every subject of a sample, in the order of its attachments.

    Raises ValueError where the metadata is not of the subjects' world or the image has another shape.
    """
    return [judge_texture(image, thing, texture) for thing, texture in subjects_of(metadata).items()]


def judge_drawing(image: ArrayLike, metadata: dict[str, Any]) -> Drawing:
    """Judge a picture drawn from a sample's target caption and attachments alone; errors as `judge_subjects`."""
    textures, picture, limits = subjects_of(metadata), as_picture(image), thresholds("plain")
    target = Scene.from_dict(metadata["target_scene"])
    shaped = {thing: shows_shape(picture, target, thing) for thing in textures}
    nearness = [shaped[thing] * judge_texture(image, thing, texture).nearness for thing, texture in textures.items()]
    others = [thing for thing in target.things if thing not in textures]
    said = [*shaped.values(), *(_reads(picture, target, textures, thing) for thing in others)]
    ground = _outside(picture, render_with_subjects(target, textures), target.things) <= limits.max_outside
    return Drawing(float(np.mean(nearness)), float(np.mean([*said, ground])))


def judge_subject_edit(image: ArrayLike, metadata: dict[str, Any]) -> Verdict:
    """Judge the edit of a sample with subjects: success asks for the object's shape and for its texture.

    Preservation asks for the other objects and for all pixels away from the edited one. Errors as `judge_subjects`.
    """
    textures, picture = subjects_of(metadata), as_picture(image)
    source, target = Scene.from_dict(metadata["source_scene"]), Scene.from_dict(metadata["target_scene"])
    edited = {name: Thing(**fields) for name, fields in metadata["edit"].items() if fields is not None}
    after, limits = edited["after"], thresholds("plain")

    def stands(thing: Thing) -> bool:
        if thing in textures:
            return shows_shape(picture, target, thing) and judge_texture(image, thing, textures[thing]).nearest
        return _reads(picture, target, textures, thing)

    kept = [stands(thing) for thing in target.things if thing != after]
    outside = _outside(picture, render_with_subjects(source, textures), edited.values())
    success = stands(after)
    return Verdict(success, all(kept) and outside <= limits.max_outside, success, float(np.mean(kept or [1])), outside)


def _reads(picture: Picture, scene: Scene, textures: Textures, thing: Thing) -> bool:
    """Whether an object without a texture is read at its place as the scene has it."""
    others = scene.with_things(tuple(each for each in scene.things if each != thing))
    place = Place(picture, render_with_subjects(others, textures), "", thing.place, thresholds("plain"))
    return read(place, thing).is_like(thing)


def _outside(picture: Picture, expected: Pixels, things: Iterable[Thing]) -> float:
    """Mean difference to an expected picture away from some objects, in grey levels."""
    free = block_means((~grown(silhouettes(things), 3)).astype(np.float32)[..., None])[..., 0] == 1.0
    return float(np.abs(block_means(picture) - block_means(expected.astype(np.float32)))[free].mean())


def subjects_of(metadata: dict[str, Any]) -> Textures:
    """The subjects of a sample and their textures. ValueError on the metadata of another world."""
    if metadata.get("world") != "subjects":
        raise ValueError("metadata: expected that of a sample with subjects (world: subjects), found another or none")
    return {Thing(**each["thing"]): Texture(**each["texture"]) for each in metadata["subjects"]}


def shows_shape(picture: Picture, scene: Scene, thing: Thing) -> bool:
    """Whether what stands out from a plain background at an object's place has its shape, whatever its colours."""
    rows, columns, _, _ = window(thing.x, thing.y)
    ground = np.array(BACKGROUND_COLOURS[scene.background.first], dtype=np.float32)
    gap = np.sqrt(np.square(picture - ground).sum(axis=2))[rows, columns]
    inner = _shrunk(silhouette(thing)[rows, columns])
    edge = max(np.percentile(gap[inner], 20) / 2, MIN_CONTRAST / 4)  # where a soft edge is half way
    covered = ~grown(~grown(gap > edge, 1), 1)  # without holes where two colours of the texture mix to the ground's
    found = {}
    for shape, size, right, down in product(SHAPES, SIZES, SHIFTS, SHIFTS):
        other = replace(thing, shape=shape, size=size, x=thing.x + right, y=thing.y + down)
        mask = silhouette(other)[rows, columns]
        overlap = (mask & covered).sum() / max((mask | covered).sum(), 1)
        found[shape] = max(found.get(shape, 0.0), float(overlap))
    return found[thing.shape] == max(found.values()) and found[thing.shape] >= MIN_OVERLAP


def rivals(texture: Texture) -> list[Texture]:
    """Other textures, always the same for one: the other patterns in its colours, its own turned, some strangers."""
    draws = Draws(0, f"rivals/{texture}", 0)
    drawn = (draw_texture(draws) for _ in range(2 * STRANGERS))
    strangers = [other for other in drawn if {other.first, other.second} != {texture.first, texture.second}]
    return [*_kin(texture), *strangers[:STRANGERS]]


def _kin(texture: Texture) -> Iterator[Texture]:
    for pattern, angles in ANGLES.items():
        colours = in_order(pattern, texture.first, texture.second)
        turned = (Texture(pattern, texture.period, angle, *colours) for angle in angles)
        yield from (other for other in turned if _apart(texture, other))


def _apart(texture: Texture, other: Texture) -> bool:
    """Whether two textures in the same colours look different enough."""
    if texture.pattern != other.pattern:
        return True
    turn = abs(texture.angle - other.angle)
    return min(turn, 180 - turn) >= MIN_ANGLE and texture.pattern not in ("checks", "dots", "rings")


def _error(seen: Picture, texture: Texture, area: tuple[slice, slice, NDArray[np.bool_]]) -> float:
    """Least mean squared difference over where the texture may begin, drawn sharp or softened.

    For a share s of the second colour at a pixel it is |seen - first - s (second - first)|^2, written out.
    """
    rows, columns, inner = area
    shares = _shares(texture.pattern, texture.period, texture.angle)[:, rows, columns][:, inner]
    first, second = (np.array(COLOURS[name], dtype=np.float32) for name in (texture.first, texture.second))
    off, step = seen - first, second - first
    errors = np.square(off).sum() - 2 * shares @ (off @ step) + np.square(shares).sum(axis=1) * np.square(step).sum()
    return float(max(errors.min(), 0.0)) / len(seen)


@cache
def _shares(pattern: str, period: int, angle: int) -> Picture:
    """Share of the second colour all over an object's tile, float32 [N, 22, 22], for every place where it may begin."""
    x, y = places(SAMPLES)
    side, span = 2 * REACH, range(0, 32 * period, 32)
    steps = span if pattern != "rings" else range(-32, 33, 32)
    texture = Texture(pattern, period, angle, "", "")
    marked = np.stack([has_second_colour(texture, x - right, y - down) for right, down in product(steps, steps)])
    sharp = marked.reshape(-1, side, SAMPLES, side, SAMPLES).mean(axis=(2, 4), dtype=np.float32)
    return np.concatenate([sharp, blurred(sharp[..., None])[..., 0]])


def _shrunk(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its outermost pixels, which are mixed with what is behind."""
    padded = np.pad(mask, 1)
    return padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
