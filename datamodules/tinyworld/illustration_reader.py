"""Reads figures back out of pictures, attribute by attribute, and judges edits of illustrations.

Analysis by synthesis: of all values of an attribute the one whose drawing is nearest to the picture, the others being
as read so far, until nothing changes. `start` is where the search begins: the figure expected, or none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datamodules.tinyworld.illustrations import ATTRIBUTES, REACH, SCALES, Figure
from datamodules.tinyworld.line_art import render_figure
from datamodules.tinyworld.oracle import Verdict, as_picture
from datamodules.tinyworld.reading import blurred

MIN_CORRELATION = 0.6  # of a picture with the drawing that is read from it, for a figure to be there at all
MAX_SWEEPS = 4
Grey = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FigureReading:
    """The figure that a picture shows best, and whether it shows one: `correlation` with its drawing says how well."""

    figure: Figure
    correlation: float

    @property
    def present(self) -> bool:
        """Whether there is a figure rather than noise or nothing."""
        return self.correlation >= MIN_CORRELATION

    def agrees(self, name: str, figure: Figure) -> bool:
        """There, and with this figure's value of one attribute."""
        return self.present and getattr(self.figure, name) == getattr(figure, name)


def read_figure(image: ArrayLike, start: Figure | None = None) -> FigureReading:
    """What figure an image shows, [3, 64, 64] in [-1, 1].

    Args:
        start: the figure expected; without one the search begins at several and takes some fifty times as long.

    Raises:
        ValueError: an image of another shape, or values that are not finite.
    """
    grey = as_picture(image).mean(axis=2)
    found = [_descended(grey, each) for each in ([start] if start is not None else _starts())]
    best = min(found, key=lambda figure: _error(grey, figure))
    return FigureReading(best, _correlation(grey, _drawn(best)[0]))


def judge_illustration(image: ArrayLike, metadata: dict[str, Any]) -> Verdict:
    """Judge an edited illustration, [3, 64, 64] in [-1, 1], against the metadata of its sample.

    Success: the edited attribute has its new value; `kept`: share of the other attributes that have theirs;
    preservation: all of them. Pixels are not compared.

    Raises ValueError where the metadata is not an illustration's or the image has another shape.
    """
    if metadata.get("world") != "illustrations":
        raise ValueError("metadata: expected that of an illustration (world: illustrations), found another or none")
    target, edited = Figure(**metadata["target_figure"]), metadata["edit"]["attribute"]
    source = Figure(**metadata["source_figure"])
    readings = [read_figure(image, start) for start in (target, source)]
    reading = max(readings, key=lambda each: each.correlation)
    right = [reading.agrees(name, target) for name in ATTRIBUTES if name != edited]
    success = reading.agrees(edited, target)
    return Verdict(success, all(right), success, sum(right) / len(right), 0.0)


def _descended(grey: Grey, figure: Figure) -> Figure:
    least = _error(grey, figure)
    for _ in range(MAX_SWEEPS):
        before = figure
        if not least:
            break
        for other in (change for name in _CHANGED for change in _changes(figure, name)):
            if (error := _error(grey, other)) < least:
                figure, least = other, error
        if figure == before:
            break
    return figure


_CHANGED = ("background", "standing", "place", "tilt", "hair", *ATTRIBUTES)
"""Background and outline first, for they cover most of a picture; size and coarse place move together."""


def _changes(figure: Figure, name: str) -> Iterator[Figure]:
    if name == "standing":
        steps = range(-REACH, REACH + 1, 2)
        found = (replace(figure, scale=scale, x=x, y=y) for scale, x, y in product(SCALES, steps, steps))
    elif name == "place":
        near = (range(max(-REACH, at - 1), min(REACH, at + 1) + 1) for at in (figure.x, figure.y))
        found = (replace(figure, x=x, y=y) for x, y in product(*near))
    else:
        found = (replace(figure, **{name: value}) for value in ATTRIBUTES[name])
    yield from (other for other in found if other != figure)


def _starts() -> list[Figure]:
    plain = Figure(**{name: values[0] for name, values in ATTRIBUTES.items()})
    return [replace(plain, tilt=tilt, hair=hair) for tilt in ATTRIBUTES["tilt"] for hair in ATTRIBUTES["hair"]]


@lru_cache(maxsize=4096)
def _drawn(figure: Figure) -> tuple[Grey, Grey]:
    """A figure's drawing, float32 [64, 64], sharp and softened as by an autoencoder."""
    pixels = render_figure(figure).astype(np.float32)
    return pixels[..., 0], blurred(pixels)[..., 0]


def _error(grey: Grey, figure: Figure) -> float:
    return min(float(np.square(grey - drawn).sum()) for drawn in _drawn(figure))


def _correlation(grey: Grey, drawn: Grey) -> float:
    spread = float(grey.std() * drawn.std())
    return float(((grey - grey.mean()) * (drawn - drawn.mean())).mean()) / spread if spread > 1.0 else 0.0
