"""Figures of the illustration world as pixels: ink on paper, with fills in black, grey or hatching."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from datamodules.tinyworld.illustrations import Figure
from datamodules.tinyworld.scene import SIDE
from datamodules.tinyworld.strokes import (
    GRID,
    SAMPLES,
    Ellipse,
    Frame,
    Pen,
    Points,
    Polygon,
    Shape,
    hatching,
    patch,
)

PAPER, INK, DARK, GREY = 255, 15, 85, 185  # grey levels; lines stay visible on what is filled dark
LINE = {"thin lines": 16, "thick lines": 34}  # sixteenths of a pixel
NECK = (0, 150)  # about which a head tilts
TURN = {"": 0, "tilted left": -1, "tilted right": 1}
FILLS = {"white": "paper", "black": "dark", "striped": "striped", "dotted": "dotted"}
Layer = tuple[Shape, str, bool]
"""What is drawn, with which paint (ink, dark, grey, paper or a hatching), and whether it tilts with the head."""


def render_figure(figure: Figure) -> NDArray[np.uint8]:
    """Pixels of a figure in front of its background, uint8 [64, 64, 3], all channels equal."""
    canvas = _background(figure.background).copy()
    body, head = Frame(figure.scale), Frame(figure.scale, TURN[figure.tilt], NECK)
    right, down = figure.x * SAMPLES, figure.y * SAMPLES
    for shape, paint, tilts in layers(figure):
        frame = head if tilts else body
        rows, columns, mask = patch(shape, frame)
        rows, columns, mask = _moved(rows, columns, mask, down, right)
        tone = _tones(paint, frame)
        at = (slice(rows.start - down, rows.stop - down), slice(columns.start - right, columns.stop - right))
        canvas[rows, columns][mask] = tone if isinstance(tone, int) else tone[at][mask]
    lines = canvas.reshape(SIDE, SAMPLES, GRID).sum(axis=1, dtype=np.uint16)
    blocks = lines.reshape(SIDE, SIDE, SAMPLES).sum(axis=2, dtype=np.uint16)
    grey = ((blocks + SAMPLES * SAMPLES // 2) // (SAMPLES * SAMPLES)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _moved(rows: slice, columns: slice, mask: NDArray[np.bool_], down: int, right: int) -> tuple:
    """A patch shifted over the grid, without what leaves it."""
    top, left = rows.start + down, columns.start + right
    up, start = max(0, top), max(0, left)
    low, stop = min(GRID, top + mask.shape[0]), min(GRID, left + mask.shape[1])
    return (
        slice(up, max(up, low)),
        slice(start, max(start, stop)),
        mask[up - top : low - top, start - left : stop - left],
    )


@cache
def _tones(paint: str, frame: Frame) -> int | NDArray[np.uint8]:
    plain = {"ink": INK, "dark": DARK, "paper": PAPER, "grey": GREY}
    if paint in plain:
        return plain[paint]
    return np.where(hatching(paint, frame), INK, PAPER).astype(np.uint8)


@cache
def _background(name: str) -> NDArray[np.uint8]:
    """Grey levels of the samples behind a figure, uint8 [256, 256]."""
    canvas = np.full((GRID, GRID), PAPER, dtype=np.uint8)
    y, x = np.indices((GRID, GRID))
    if name == "grey background":
        canvas[:] = GREY
    elif name == "grid background":
        canvas[(x % (8 * SAMPLES) < SAMPLES) | (y % (8 * SAMPLES) < SAMPLES)] = GREY
    elif name == "dotted background":
        side, radius = 8 * SAMPLES, 2 * SAMPLES
        canvas[(x % side - side // 2) ** 2 + (y % side - side // 2) ** 2 <= radius * radius] = GREY
    return canvas


def layers(figure: Figure) -> Iterator[Layer]:
    """What a figure is drawn of, from back to front."""
    pen = LINE[figure.line]
    hair = FILLS[figure.hair_fill.split()[0]]
    for shape in _hair_behind(figure.hair):
        yield from _outlined(shape, hair, pen, True)
    yield from _body(figure, pen)
    if figure.headwear == "cat ears":
        for side in (-1, 1):
            yield from _outlined(Polygon(_sided(side, ((60, -150), (215, -330), (225, -90)))), hair, pen, True)
    yield from _outlined(_face(figure.face), "paper", pen, True)
    for shape in _hair_in_front(figure.hair):
        yield from _outlined(shape, hair, pen, True)
    yield from _features(figure, pen)
    yield from _headwear(figure.headwear, pen)


def _outlined(shape: Ellipse | Polygon, fill: str, pen: int, tilts: bool) -> Iterator[Layer]:
    """A filled shape with a pen line round it."""
    if isinstance(shape, Ellipse):
        half = pen // 2
        yield Ellipse(shape.x, shape.y, shape.width + half, shape.height + half), "ink", tilts
        yield Ellipse(shape.x, shape.y, shape.width - half, shape.height - half), fill, tilts
    else:
        yield shape, fill, tilts
        yield Pen((*shape.corners, shape.corners[0]), pen), "ink", tilts


def _sided(side: int, points: Points) -> Points:
    """Points of the right half, mirrored to the left for side -1."""
    return tuple((side * x, y) for x, y in points)


def _both(points: Points) -> Points:
    """A closed symmetric line from its right half, top to bottom."""
    return (*points, *((-x, y) for x, y in reversed(points) if x))


def _face(name: str) -> Ellipse | Polygon:
    if name == "round face":
        return Ellipse(0, -55, 205, 200)
    if name == "square face":
        return Polygon(_both(((0, -250), (150, -235), (195, -160), (195, 80), (165, 125), (0, 130))))
    return Polygon(_both(((0, -250), (150, -235), (200, -150), (195, -40), (110, 80), (0, 165))))


def _hair_behind(name: str) -> list[Ellipse | Polygon]:
    if name == "long hair":
        return [Polygon(_both(((0, -300), (160, -270), (250, -150), (270, 60), (300, 290), (180, 300), (0, 300))))]
    if name == "twintails":
        return [Ellipse(side * 300, 20, 75, 190) for side in (-1, 1)]
    if name == "ponytail":
        return [
            Polygon(((60, -250), (250, -330), (380, -200), (400, 40), (330, 160), (310, 20), (260, -120), (150, -150)))
        ]
    return []


def _hair_in_front(name: str) -> list[Ellipse | Polygon]:
    """The fringe and the top of the head."""
    if name == "spiky hair":
        right = ((0, -390), (50, -300), (150, -370), (150, -280), (280, -290), (220, -210), (310, -150), (225, -130))
        inner = ((160, -110), (110, -160), (60, -95), (0, -150))
        return [Polygon((*right, *inner, *((-x, y) for x, y in reversed((*right, *inner)) if x)))]
    sides = 60 if name in ("short hair", "long hair") else -70
    outer = ((0, -290), (110, -275), (190, -215), (235, -120), (235, sides))
    inner = ((185, sides), (170, -110), (0, -130))
    return [Polygon((*outer, *inner, *((-x, y) for x, y in reversed((*outer, *inner)) if x)))]


def _body(figure: Figure, pen: int) -> Iterator[Layer]:
    shirt = FILLS[figure.shirt.split()[0]]
    raised = {"arms down": (), "arms up": (-1, 1), "waving": (1,)}[figure.arms]
    yield from _outlined(Polygon(((-55, 100), (55, 100), (55, 230), (-55, 230))), "paper", pen, False)
    for side in raised:
        points = _sided(side, ((190, 330), (400, 230), (430, 60)))
        yield Pen(points, 110 + pen), "ink", False
        yield Pen(points, 110 - pen), shirt, False
        yield from _outlined(Ellipse(side * 430, 20, 55, 60), "paper", pen, False)
    torso = ((60, 205), (200, 240), (265, 330), (290, 540))
    yield from _outlined(Polygon((*torso, *_sided(-1, tuple(reversed(torso))))), shirt, pen, False)
    for side in {-1, 1} - set(raised):
        yield Pen(_sided(side, ((185, 370), (195, 540))), pen), "ink", False
    yield from _outlined(Polygon(((-75, 200), (75, 200), (0, 275))), "paper", pen, False)


def _features(figure: Figure, pen: int) -> Iterator[Layer]:
    """Eyes, mouth and what is worn over the eyes."""
    for side in (-1, 1):
        x, y = side * 90, -45
        if figure.eyes == "round eyes":
            yield from _outlined(Ellipse(x, y, 40, 48), "paper", min(pen, 24), True)
            yield Ellipse(x, y + 8, 22, 28), "ink", True
        elif figure.eyes == "dot eyes":
            yield Ellipse(x, y, 24, 24), "ink", True
        else:
            yield Pen(((x - 45, y - 8), (x - 20, y + 18), (x + 20, y + 18), (x + 45, y - 8)), pen), "ink", True
    if figure.mouth == "open mouth":
        yield from _outlined(Ellipse(0, 68, 34, 34), "grey", pen, True)
    else:
        bend = 26 if figure.mouth == "smile" else -26
        yield Pen(((-62, 68 - bend), (-32, 68 + bend // 2), (32, 68 + bend // 2), (62, 68 - bend)), pen), "ink", True
    if figure.eyewear == "glasses":
        for side in (-1, 1):
            yield _ring(side * 90, -42, 72 + pen // 2, pen), "ink", True
        yield Pen(((-20, -50), (20, -50)), pen), "ink", True
    elif figure.eyewear == "eyepatch":
        yield Pen(((-205, -120), (180, -20)), pen), "ink", True
        yield Polygon(((25, -105), (165, -105), (160, 5), (95, 40), (35, 5))), "ink", True


def _ring(x: int, y: int, radius: int, pen: int) -> Pen:
    """A closed pen line of eight corners, through which one sees."""
    corner = radius * 7 // 10
    ring = _both(((0, -radius), (corner, -corner), (radius, 0), (corner, corner), (0, radius)))
    return Pen(tuple((x + a, y + b) for a, b in (*ring, ring[0])), pen)


def _headwear(name: str, pen: int) -> Iterator[Layer]:
    if name == "hat":
        yield from _outlined(Polygon(_both(((0, -440), (150, -440), (170, -230), (0, -225)))), "grey", pen, True)
        yield from _outlined(Polygon(_both(((0, -255), (300, -250), (300, -195), (0, -190)))), "grey", pen, True)
    elif name == "bow":
        for side in (-1, 1):
            loop = tuple((130 + side * x, y) for x, y in ((0, -265), (120, -345), (120, -185)))
            yield from _outlined(Polygon(loop), "grey", pen, True)
        yield from _outlined(Ellipse(130, -265, 34, 34), "grey", pen, True)
    elif name == "crown":
        right = ((0, -400), (60, -310), (130, -420), (150, -240))
        yield from _outlined(Polygon(_both((*right, (0, -230)))), "paper", pen, True)
