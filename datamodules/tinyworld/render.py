"""From scene graph to pixels: anti-aliased by 8x8 samples a pixel, in integers only, so equal on every machine."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.tinyworld import photographs
from datamodules.tinyworld.effects import apply_effect
from datamodules.tinyworld.scene import BACKGROUND_COLOURS, OBJECT_COLOURS, SIDE, Background, Colour, Scene, Thing

SAMPLES = 8  # a pixel and direction
REACH = 11  # pixels from an object's centre to the edge of its tile
RADIUS = {"small": 44, "medium": 60, "large": 78}  # eighths of a pixel
OUTLINE = 14  # eighths of a pixel, drawn inwards so that the silhouette stays
INK: Colour = (0, 0, 0)


class Tile(NamedTuple):
    """Coverage of the pixels around an object's centre, int32 [22, 22, 1] in 0..64, one array a tone."""

    light: NDArray[np.int32]
    dark: NDArray[np.int32]
    ink: NDArray[np.int32]

    @property
    def total(self) -> NDArray[np.int32]:
        """Coverage of the whole silhouette."""
        return self.light + self.dark + self.ink


def inside(shape: str, x: NDArray[np.int32], y: NDArray[np.int32], radius: int) -> NDArray[np.bool_]:
    """Which points (offsets from the centre, in eighths of a pixel) a shape covers."""
    if shape == "circle":
        return x * x + y * y <= radius * radius
    if shape == "ring":
        squared = x * x + y * y
        return (squared <= radius * radius) & (4 * squared >= radius * radius)
    if shape == "square":
        return (abs(x) * 8 <= radius * 7) & (abs(y) * 8 <= radius * 7)
    if shape == "diamond":
        return abs(x) + abs(y) <= radius
    if shape == "cross":
        arm = radius * 3 // 8
        return ((abs(x) <= arm) & (abs(y) <= radius)) | ((abs(y) <= arm) & (abs(x) <= radius))
    # triangle: tip at the top, base at 7/8 of the radius below the centre
    return (y * 8 <= radius * 7) & (abs(x) * 15 <= (y + radius) * 8)


@cache
def tile(shape: str, size: str, texture: str, outlined: bool) -> Tile:
    """Coverage of an object by its three tones: light (its colour), dark (its shade), ink (its outline)."""
    steps = np.arange(2 * REACH * SAMPLES, dtype=np.int32) * 2 - (2 * REACH * SAMPLES - 1)
    x, y = np.meshgrid(steps, steps)  # in sixteenths of a pixel, so that samples are symmetrical about the centre
    whole = inside(shape, x, y, 2 * RADIUS[size])
    if outlined:
        core = whole.copy()
        for shift in range(1, OUTLINE + 1):
            for axis in (0, 1):
                core &= np.roll(whole, shift, axis) & np.roll(whole, -shift, axis)
    else:
        core = whole
    shaded = np.zeros_like(whole)
    if texture == "striped":
        shaded = (y + 24 + 96 * 16) % 96 < 48  # bands of 3 pixels, light in the middle
    elif texture == "dotted":
        dot_x, dot_y = (x + 96 * 16) % 96 - 48, (y + 96 * 16) % 96 - 48
        shaded = dot_x * dot_x + dot_y * dot_y <= 28 * 28
    return Tile(_coverage(core & ~shaded), _coverage(core & shaded), _coverage(whole & ~core))


def _coverage(samples: NDArray[np.bool_]) -> NDArray[np.int32]:
    side = 2 * REACH
    return samples.reshape(side, SAMPLES, side, SAMPLES).sum(axis=(1, 3), dtype=np.int32)[:, :, None]


def shade(colour: Colour) -> Colour:
    """The darker tone of a textured object."""
    red, green, blue = (channel * 3 // 5 for channel in colour)
    return red, green, blue


def render_background(background: Background) -> NDArray[np.uint8]:
    """Pixels of a background, uint8 [64, 64, 3]."""
    if background.kind in ("texture", "photograph"):
        return photographs.cut(background).copy()
    return _rows(background.first, background.second or background.first).copy()


@cache
def _rows(upper: str, lower: str) -> NDArray[np.uint8]:
    """A colour at the top that fades to another at the bottom."""
    first = np.array(BACKGROUND_COLOURS[upper], dtype=np.int32)
    second = np.array(BACKGROUND_COLOURS[lower], dtype=np.int32)
    down = np.arange(SIDE, dtype=np.int32)[:, None]
    rows = (first * (SIDE - 1 - down) + second * down + SIDE // 2) // (SIDE - 1)
    return np.repeat(rows.astype(np.uint8)[:, None], SIDE, axis=1)


@cache
def _paint(
    shape: str, size: str, texture: str, outlined: bool, name: str
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Paint of an object's tile (64 times its share of the pixel) and the share left to what is behind it."""
    cover = tile(shape, size, texture, outlined)
    colour = OBJECT_COLOURS[name]
    tones = zip(cover, (colour, shade(colour), INK), strict=True)
    paint = sum(part * np.array(tone, dtype=np.int32) for part, tone in tones) + SAMPLES * SAMPLES // 2
    return np.asarray(paint, dtype=np.uint16), (SAMPLES * SAMPLES - cover.total).astype(np.uint16)


def draw_thing(canvas: NDArray[np.uint8], thing: Thing) -> None:
    """Draw one object onto `canvas` (uint8 [64, 64, 3]) in place; what reaches over the border is cut off."""
    rows, columns, tile_rows, tile_columns = window(thing.x, thing.y)
    paint, rest = _paint(thing.shape, thing.size, thing.texture, thing.outlined, thing.colour)
    mixed = rest[tile_rows, tile_columns] * canvas[rows, columns]
    mixed += paint[tile_rows, tile_columns]
    canvas[rows, columns] = mixed >> 6  # divided by the 64 samples of a pixel


def window(x: int, y: int) -> tuple[slice, slice, slice, slice]:
    """Rows and columns of the image under a tile centred at (x, y), and of the tile over the image."""
    top, left = y - REACH, x - REACH
    up, start = max(0, top), max(0, left)
    down, stop = min(SIDE, top + 2 * REACH), min(SIDE, left + 2 * REACH)
    return slice(up, down), slice(start, stop), slice(up - top, down - top), slice(start - left, stop - left)


def silhouette(thing: Thing) -> NDArray[np.bool_]:
    """Pixels of which an object covers at least half, bool [64, 64]."""
    mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
    rows, columns, tile_rows, tile_columns = window(thing.x, thing.y)
    mask[rows, columns] = _half_covered(thing.shape, thing.size)[tile_rows, tile_columns]
    return mask


def silhouettes(things: Iterable[Thing]) -> NDArray[np.bool_]:
    """Union of the silhouettes of several objects, bool [64, 64]."""
    mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
    for thing in things:
        mask |= silhouette(thing)
    return mask


@cache
def _half_covered(shape: str, size: str) -> NDArray[np.bool_]:
    return tile(shape, size, "plain", False).total[..., 0] * 2 >= SAMPLES * SAMPLES


def render(scene: Scene) -> NDArray[np.uint8]:
    """Pixels of a scene, uint8 [64, 64, 3], its effect included."""
    canvas = render_background(scene.background)
    for thing in scene.things:
        draw_thing(canvas, thing)
    return apply_effect(canvas, scene.effect)
