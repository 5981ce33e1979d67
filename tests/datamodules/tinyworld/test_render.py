"""The renderer: anti-aliased, inside its place, and in integers."""

import io

import numpy as np
import pytest
from PIL import Image

from datamodules.tinyworld.layout import JITTER
from datamodules.tinyworld.png import png
from datamodules.tinyworld.render import RADIUS, render, silhouette, tile
from datamodules.tinyworld.sample import draw_sample
from datamodules.tinyworld.scene import (
    OBJECT_COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Background,
    Scene,
    Thing,
    cell_centre,
)

WHITE = Background("plain", first="white")


def at(place, shape="circle", size="large", dx=0, dy=0):
    x, y = cell_centre(place)
    return Thing(shape, "red", "plain", size, place, x + dx, y + dy)


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_has_soft_edges_and_the_shapes_area(shape):
    cover = tile(shape, "large", "plain", False).total[..., 0] / 64
    radius = RADIUS["large"] / 8
    area = {
        "circle": np.pi,
        "ring": np.pi * 0.75,
        "square": 4 * (7 / 8) ** 2,
        "diamond": 2.0,
        "cross": 2 * 2 * 0.75 - 0.75**2,
        "triangle": (15 / 8) ** 2 * 8 / 15,
    }[shape]
    assert cover.sum() == pytest.approx(area * radius**2, rel=0.02)
    assert ((cover > 0.05) & (cover < 0.95)).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_smallest_object_is_ten_pixels_across(shape):
    mask = silhouette(at("centre", shape, "small"))
    assert min(np.ptp(axis) + 1 for axis in np.nonzero(mask)) >= 9
    assert max(np.ptp(axis) + 1 for axis in np.nonzero(mask)) >= 10


@pytest.mark.parametrize("size", SIZES)
def test_objects_at_their_farthest_do_not_touch_their_neighbours(size):
    reach = JITTER[size]
    for first, second in (("left", "centre"), ("top", "centre")):
        pair = [at(first, "square", size, reach, reach), at(second, "square", size, -reach, -reach)]
        covers = [(render(Scene(WHITE, (thing,))) != 250).any(axis=2) for thing in pair]
        assert not (covers[0] & covers[1]).any()


@pytest.mark.parametrize("place", PLACES)
def test_objects_stay_inside_the_picture(place):
    whole = tile("circle", "large", "plain", False).total.sum()
    drawn = 250 - render(Scene(WHITE, (at(place),)))[..., 1].astype(int)
    assert drawn.sum() == pytest.approx(whole / 64 * (250 - OBJECT_COLOURS["red"][1]), rel=0.01)


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_add_no_area(texture):
    plain, other = (tile("square", "medium", name, False).total for name in ("plain", texture))
    assert (plain == other).all()


def test_png_files_hold_the_exact_pixels():
    sample = draw_sample(0, "train", 4)
    for name in ("source", "target"):
        assert (np.asarray(Image.open(io.BytesIO(png(sample[name])))) == sample[name]).all()
    mask = Image.open(io.BytesIO(png(sample["target_mask"]))).convert("L")
    assert (np.asarray(mask) == sample["target_mask"] * 255).all()
