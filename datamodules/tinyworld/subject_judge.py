"""How near the texture in a picture is to the subject that was shown, against other textures.

The subject must explain the object's pixels better than rivals of the family do (most of them in its own two colours)
and than one flat colour does. Where the texture begins on the object does not matter, for no picture could say it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.oracle import as_picture
from datamodules.tinyworld.reading import Picture, blurred
from datamodules.tinyworld.render import REACH, silhouette, window
from datamodules.tinyworld.scene import Thing
from datamodules.tinyworld.subjects import (
    ANGLES,
    COLOURS,
    EXCHANGEABLE,
    Texture,
    draw_texture,
    has_second_colour,
    places,
)

STRANGERS = 8  # rivals in other colours
SAMPLES = 2  # a pixel and direction, enough for comparisons
MIN_ANGLE = 60  # degrees between a texture and a rival of the same pattern and period


@dataclass(frozen=True, slots=True)
class TextureVerdict:
    """`nearness`: share of the rivals (flat colour included) that are farther off than the subject; `nearest`: all of
    them; `error`: root mean square difference to the subject's texture, in grey levels.
    """

    nearest: bool
    nearness: float
    error: float


def judge_texture(image: ArrayLike, thing: Thing, texture: Texture) -> TextureVerdict:
    """Whether the object at the place of `thing` shows `texture`; image [3, 64, 64] in [-1, 1].

    Raises ValueError on an image of another shape.
    """
    rows, columns, tile_rows, tile_columns = window(thing.x, thing.y)
    inner = _shrunk(silhouette(thing))[rows, columns]
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
    if metadata.get("world") != "subjects":
        raise ValueError("metadata: expected that of a sample with subjects (world: subjects), found another or none")
    return [judge_texture(image, Thing(**each["thing"]), Texture(**each["texture"])) for each in metadata["subjects"]]


def rivals(texture: Texture) -> list[Texture]:
    """Other textures, always the same for one: the other patterns in its colours, its own turned, some strangers."""
    draws = Draws(0, f"rivals/{texture}", 0)
    drawn = (draw_texture(draws) for _ in range(2 * STRANGERS))
    strangers = [other for other in drawn if {other.first, other.second} != {texture.first, texture.second}]
    return [*_kin(texture), *strangers[:STRANGERS]]


def _kin(texture: Texture) -> Iterator[Texture]:
    for pattern, angles in ANGLES.items():
        first, second = texture.first, texture.second
        if pattern in EXCHANGEABLE and first > second:
            first, second = second, first
        turned = (Texture(pattern, texture.period, angle, first, second) for angle in angles)
        yield from (other for other in turned if _apart(texture, other))


def _apart(texture: Texture, other: Texture) -> bool:
    """Whether two textures in the same colours look different enough."""
    if texture.pattern != other.pattern:
        return True
    turn = abs(texture.angle - other.angle)
    return min(turn, 180 - turn) >= MIN_ANGLE and texture.pattern not in ("checks", "dots", "rings")


def _error(seen: Picture, texture: Texture, area: tuple[slice, slice, NDArray[np.bool_]]) -> float:
    """Least mean squared difference over where the texture may begin, drawn sharp or softened."""
    rows, columns, inner = area
    fields = _fields(texture)[:, rows, columns][:, inner]
    return float(np.square(fields - seen).sum(axis=2).mean(axis=1).min())


@lru_cache(maxsize=2048)
def _fields(texture: Texture) -> Picture:
    """A texture all over an object's tile, float32 [N, 22, 22, 3], for every place where it may begin."""
    x, y = places(SAMPLES)
    first, second = (np.array(COLOURS[name], dtype=np.float32) for name in (texture.first, texture.second))
    side, span = 2 * REACH, range(0, 32 * texture.period, 32)
    steps = span if texture.pattern != "rings" else range(-32, 33, 32)
    shares = []
    for right, down in product(steps, steps):
        marked = has_second_colour(texture, x - right, y - down)
        shares.append(marked.reshape(side, SAMPLES, side, SAMPLES).mean(axis=(1, 3), dtype=np.float32))
    share = np.stack(shares)[..., None]
    sharp = first * (1 - share) + second * share
    return np.concatenate([sharp, blurred(sharp)])


def _shrunk(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its outermost pixels, which are mixed with what is behind."""
    padded = np.pad(mask, 1)
    return padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
