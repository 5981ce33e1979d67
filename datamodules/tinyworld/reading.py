"""Reads objects out of pictures: which of all objects of the world explains the pixels at a place best.

Everything is analysis by synthesis: an object is drawn as it would look, sharp and slightly blurred, and compared with
the picture. So the reader needs what is behind the object (known, or estimated from the picture itself).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from datamodules.tinyworld.effects import Pixels, apply_effect
from datamodules.tinyworld.render import draw_thing, silhouettes
from datamodules.tinyworld.scene import OBJECT_COLOURS, SHAPES, SIDE, SIZES, TEXTURES, Scene, Thing, cell_centre
from datamodules.tinyworld.thresholds import Thresholds

Picture = NDArray[np.float32]
HALF_WINDOW = 13  # pixels round the middle of a place that are compared
FAR_SHIFTS = (-4, -2, 0, 2, 4)
NEAR_SHIFTS = (-1, 0, 1)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found at an object's place: the best explanation, and whether the picture bears it out."""

    present: bool
    thing: Thing

    def is_like(self, thing: Thing) -> bool:
        """There, with the right shape and colour."""
        return self.present and self.thing.shape == thing.shape and self.thing.colour == thing.colour

    def agrees(self, thing: Thing) -> bool:
        """There, and right in every attribute."""
        return self.is_like(thing) and (self.thing.size, self.thing.texture, self.thing.outlined) == (
            thing.size,
            thing.texture,
            thing.outlined,
        )


class Place:
    """The pixels round one place of a picture, and what would be behind an object there.

    Args:
        picture: float32 [64, 64, 3] in 0..255.
        behind: uint8 [64, 64, 3], everything but the object, before the effect.
        limits: what is asked for an object to be there.
        chroma: compare colours without brightness, where `behind` is a guess about a grey and rough photograph.
    """

    def __init__(
        self, picture: Picture, behind: Pixels, effect: str, place: str, limits: Thresholds, chroma: bool = False
    ) -> None:
        x, y = cell_centre(place)
        self.rows = slice(max(0, y - HALF_WINDOW), min(SIDE, y + HALF_WINDOW))
        self.columns = slice(max(0, x - HALF_WINDOW), min(SIDE, x + HALF_WINDOW))
        self.behind, self.effect, self.limits, self.chroma = behind, effect, limits, chroma
        self.seen = self._coloured(picture[self.rows, self.columns])
        self.empty = self._crop(behind)

    def _crop(self, pixels: Pixels) -> Picture:
        return self._coloured(apply_effect(pixels, self.effect)[self.rows, self.columns].astype(np.float32))

    def _coloured(self, pixels: Picture) -> Picture:
        return pixels - pixels.mean(axis=2, keepdims=True) if self.chroma else pixels

    def draw(self, thing: Thing) -> Picture:
        """How this place would look with the object in it."""
        canvas = self.behind.copy()
        draw_thing(canvas, thing)
        return self._crop(canvas)

    def best(self, things: Iterable[Thing], soft: bool = True) -> Thing:
        """The object that explains the pixels best: least squared difference, drawn sharp or (if `soft`) blurred."""
        listed = list(things)
        drawn = np.stack([self.draw(thing) for thing in listed])
        versions = (drawn, blurred(drawn)) if soft else (drawn,)
        errors = np.stack([np.square(self.seen - each).sum(axis=(1, 2, 3)) for each in versions])
        return listed[int(errors.min(axis=0).argmin())]

    def bears_out(self, thing: Thing) -> bool:
        """Whether the picture shows this very object here, rather than what is behind it or nothing in particular."""
        projection, residual = self.evidence(thing)
        return projection >= self.limits.min_projection and residual <= self.limits.max_residual

    def is_explained_by(self, thing: Thing) -> bool:
        """Whether so little is left unexplained that no other object can be nearer."""
        projection, residual = self.evidence(thing)
        return max(abs(projection - 1), residual) <= self.limits.max_doubt

    def evidence(self, thing: Thing) -> tuple[float, float]:
        """How far the picture goes from the empty place to the object (0..1), and the unexplained share of shape."""
        change = self.draw(thing) - self.empty
        support = grown(np.abs(change).max(axis=2) > 8, 2)
        if not support.any():
            return 0.0, 1.0
        found = self.seen - self.empty
        projection = float((found * change).sum() / np.square(change).sum())
        unexplained = (_unexplained(found[support], each[support]) for each in (change, blurred(change)))
        return projection, min(unexplained)


def _unexplained(found: Picture, change: Picture) -> float:
    return _spread(found - change) / max(_spread(change), 1.0)


def _spread(values: Picture) -> float:
    """Sum of squares about the mean colour, so that a picture that is a little darker throughout does not count."""
    return float(np.square(values - values.mean(axis=0)).sum())


def read(place: Place, expected: Thing) -> Reading:
    """The object at a place, sought near where `expected` would stand, in every shape, size, colour and texture."""
    thing = _sought(place, expected)
    if expected.outlined:
        thing = place.best([thing, _sought(place, replace(expected, outlined=False))])
    return Reading(place.bears_out(thing), thing)


def _sought(place: Place, expected: Thing) -> Thing:
    thing = place.best(_shifted(expected, FAR_SHIFTS), soft=False)
    thing = place.best(_shifted(thing, NEAR_SHIFTS))
    if not place.is_explained_by(thing):
        thing = _sought_among_all(place, expected)
    thing = place.best(replace(thing, texture=texture) for texture in TEXTURES)
    return place.best(replace(thing, colour=colour) for colour in OBJECT_COLOURS)


def _sought_among_all(place: Place, expected: Thing) -> Thing:
    shapes = [replace(expected, shape=shape) for shape in SHAPES]
    thing = place.best((near for each in shapes for near in _shifted(each, FAR_SHIFTS)), soft=False)
    thing = place.best(_shifted(thing, NEAR_SHIFTS))
    thing = place.best(replace(thing, colour=colour) for colour in OBJECT_COLOURS)
    for _ in range(2):  # the shape decides where the object seems to stand, and the other way round
        thing = place.best(replace(thing, shape=shape, size=size) for shape in SHAPES for size in SIZES)
        thing = place.best(_shifted(thing, NEAR_SHIFTS))
    return thing


def holds(place: Place, expected: Thing) -> bool:
    """Whether just this object stands at a place, give or take two pixels (for pictures that hide colours)."""
    thing = place.best(_shifted(expected, (-2, 0, 2)))
    return place.bears_out(place.best(_shifted(thing, NEAR_SHIFTS)))


def _shifted(thing: Thing, shifts: tuple[int, ...]) -> list[Thing]:
    return [replace(thing, x=thing.x + right, y=thing.y + down) for right in shifts for down in shifts]


def blurred(pixels: Picture) -> Picture:
    """Pixels [..., H, W, 3] under a 3x3 binomial blur, as a latent autoencoder softens edges."""
    padded = np.pad(pixels, [(0, 0)] * (pixels.ndim - 3) + [(1, 1), (1, 1), (0, 0)], mode="edge")
    across = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    return (across[..., :-2, :, :] + 2 * across[..., 1:-1, :, :] + across[..., 2:, :, :]) / 16


def grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """The mask and all within so many steps of it."""
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def estimated_behind(picture: Picture, scene: Scene) -> Pixels:
    """What is behind the objects of `scene`, from the picture alone: under each the median of its surroundings."""
    filled = np.clip(picture, 0, 255)
    covered = grown(silhouettes(scene.things), 3)
    for thing in scene.things:
        x, y = cell_centre(thing.place)
        area = (slice(max(0, y - HALF_WINDOW), y + HALF_WINDOW), slice(max(0, x - HALF_WINDOW), x + HALF_WINDOW))
        free = ~covered[area]
        colour = np.median(picture[area][free], axis=0)
        filled[area][covered[area]] = colour
    return filled.astype(np.uint8)
