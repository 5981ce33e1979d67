"""Reads any picture as a centred scene: what a generator of such pictures is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datamodules.tinyworld.effects import Pixels
from datamodules.tinyworld.oracle import as_picture, judge_scene
from datamodules.tinyworld.reading import Picture, Place, read
from datamodules.tinyworld.render import render_background
from datamodules.tinyworld.scene import (
    BACKGROUND_COLOURS,
    OBJECT_COLOURS,
    SHAPES,
    SIZES,
    Background,
    Colour,
    Scene,
    Thing,
    cell_centre,
)
from datamodules.tinyworld.thresholds import thresholds

RIM = 4  # pixels at the edges, where no centred object reaches


def read_centred(image: ArrayLike) -> Scene | None:
    """The centred scene of level plain that is drawn in a picture; None where the oracle finds none.

    Args:
        image: [3, 64, 64] in [-1, 1].

    Raises:
        ValueError: an image of another shape, or with values that are not finite.
    """
    picture, limits = as_picture(image), thresholds("plain")
    background = Background("plain", _background(picture))
    behind = render_background(background)
    place = Place(picture, behind, "", "centre", limits)
    near = Thing("", _colour(picture, behind), "plain", "", "centre", *cell_centre("centre"))
    # the reader seeks near what it expects, so it is asked for everything that may stand there
    expected = (replace(near, shape=shape, size=size) for shape, size in product(SHAPES, SIZES))
    thing = place.best(read(place, each).thing for each in expected)
    if not place.bears_out(thing) or thing.texture != "plain":
        return None
    scene = Scene(background, (thing,))
    verdict = judge_scene(image, scene, "plain")
    return scene if verdict.correct and verdict.background else None


def _background(picture: Picture) -> str:
    """The background's colour that is nearest to the picture's rim."""
    rim = np.ones(picture.shape[:2], dtype=np.bool_)
    rim[RIM:-RIM, RIM:-RIM] = False
    return _nearest(np.median(picture[rim], axis=0), BACKGROUND_COLOURS)


def _colour(picture: Picture, behind: Pixels) -> str:
    """The object's colour that is nearest to the pixels that differ most from what is behind them."""
    change = np.square(picture - behind).sum(axis=2)
    return _nearest(np.median(picture[change >= change.max() / 2], axis=0), OBJECT_COLOURS)


def _nearest(found: NDArray[np.float32], colours: Mapping[str, Colour]) -> str:
    return min(colours, key=lambda name: float(np.square(found - colours[name]).sum()))
