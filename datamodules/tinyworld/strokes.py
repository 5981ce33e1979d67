"""Primitives of line art: which samples of a picture ellipses, polygons and pen lines cover, in integers only.

Lengths are sixteenths of a pixel, the origin is the middle of the picture, y points down. Four samples a pixel and
direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from datamodules.tinyworld.scene import SIDE

UNIT = 16  # a pixel
SAMPLES = 4  # a pixel and direction
GRID = SIDE * SAMPLES  # samples a row
Points = tuple[tuple[int, int], ...]
Box = tuple[int, int, int, int]
"""Least and greatest x and y: left, top, right, bottom."""
Mask = NDArray[np.bool_]
_TURNS = {0: (4096, 0), 1: (3974, 991)}  # 4096 times cosine and sine; 14 degrees


@dataclass(frozen=True, slots=True)
class Frame:
    """How a part of a figure lies in the picture: size in percent; `turn` -1, 0 or 1 times 14 degrees about `pivot`."""

    scale: int = 100
    turn: int = 0
    pivot: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Ellipse:
    """All within `width`, `height` (half axes) of a middle."""

    x: int
    y: int
    width: int
    height: int

    @property
    def box(self) -> Box:
        """What it lies in."""
        return self.x - self.width, self.y - self.height, self.x + self.width, self.y + self.height

    def covers(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> Mask:
        """Which points it covers."""
        across, down = (x - self.x) * self.height, (y - self.y) * self.width
        return across * across + down * down <= (self.width * self.height) ** 2


@dataclass(frozen=True, slots=True)
class Polygon:
    """The inside of a closed line of corners (even-odd rule)."""

    corners: Points

    @property
    def box(self) -> Box:
        """What it lies in."""
        return _box(self.corners, 0)

    def covers(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> Mask:
        """Which points it covers."""
        inside = np.zeros(x.shape, dtype=np.bool_)
        for (x0, y0), (x1, y1) in zip(self.corners, (*self.corners[1:], self.corners[0]), strict=True):
            if y0 == y1:
                continue
            if y0 > y1:
                x0, y0, x1, y1 = x1, y1, x0, y0
            between = (y >= y0) & (y < y1)
            inside ^= between & ((x - x0) * (y1 - y0) < (x1 - x0) * (y - y0))
        return inside


@dataclass(frozen=True, slots=True)
class Pen:
    """A line through points with round ends, `width` wide."""

    points: Points
    width: int

    @property
    def box(self) -> Box:
        """What it lies in."""
        return _box(self.points, self.width)

    def covers(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> Mask:
        """Which points it covers."""
        inside = np.zeros(x.shape, dtype=np.bool_)
        for (x0, y0), (x1, y1) in zip(self.points, self.points[1:], strict=False):
            along_x, along_y, from_x, from_y = x1 - x0, y1 - y0, x - x0, y - y0
            length = max(along_x * along_x + along_y * along_y, 1)
            ahead = np.clip(from_x * along_x + from_y * along_y, 0, length)
            gap_x, gap_y = from_x * length - ahead * along_x, from_y * length - ahead * along_y
            inside |= 4 * (gap_x // length) ** 2 + 4 * (gap_y // length) ** 2 <= self.width**2
        return inside


def _box(points: Points, margin: int) -> Box:
    across, down = zip(*points, strict=True)
    return min(across) - margin, min(down) - margin, max(across) + margin, max(down) + margin


Shape = Ellipse | Polygon | Pen
Patch = tuple[slice, slice, Mask]
"""Rows and columns of the grid of samples, and which samples of them are covered."""


@cache
def _grid(frame: Frame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every sample's place on the figure's own paper."""
    steps = (np.arange(GRID, dtype=np.int64) * 2 - (GRID - 1)) * UNIT // (2 * SAMPLES)
    x, y = np.meshgrid(steps * 100 // frame.scale, steps * 100 // frame.scale)
    cosine, sine = _TURNS[abs(frame.turn)]
    sine *= 1 if frame.turn > 0 else -1
    x, y = x - frame.pivot[0], y - frame.pivot[1]
    return (x * cosine + y * sine) // 4096 + frame.pivot[0], (y * cosine - x * sine) // 4096 + frame.pivot[1]


@lru_cache(maxsize=16384)
def patch(shape: Shape, frame: Frame) -> Patch:
    """The samples that a shape covers, in a rectangle that holds them."""
    x, y = _grid(frame)
    left, top, right, bottom = shape.box
    rows, columns = _bounds((x >= left) & (x <= right) & (y >= top) & (y <= bottom))
    found = shape.covers(x[rows, columns], y[rows, columns])
    found.setflags(write=False)
    return rows, columns, found


def _bounds(mask: Mask) -> tuple[slice, slice]:
    """The smallest rectangle that holds all of a mask; empty for an empty one."""
    down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(down):
        return slice(0, 0), slice(0, 0)
    return slice(int(down[0]), int(down[-1]) + 1), slice(int(across[0]), int(across[-1]) + 1)


@cache
def hatching(kind: str, frame: Frame) -> Mask:
    """Which samples a pattern darkens: "striped" in slanting bands, "dotted" in dots, on the figure's own paper."""
    x, y = _grid(frame)
    if kind == "striped":
        return (x + y) % (6 * UNIT) < 2 * UNIT
    across, down = x % (5 * UNIT) - 5 * UNIT // 2, y % (5 * UNIT) - 5 * UNIT // 2
    return across * across + down * down <= (UNIT * 5 // 4) ** 2
