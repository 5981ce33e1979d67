"""What the oracle asks of whole pictures: backgrounds, effects, and whether objects stand where none should."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from datamodules.tinyworld import photographs
from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.reading import Picture, grown
from datamodules.tinyworld.render import render, render_background, silhouettes
from datamodules.tinyworld.scene import PLACES, SIDE, Scene, cell_centre

MAX_REST = 0.5  # of the way from source to target that an effect may leave undone
MIN_CORRELATION = 0.7  # with a photograph, for its structure to be kept
MAX_DETAIL = 0.45  # of a picture's detail within 4x4 blocks that pixelating may leave
MAX_FLAT_GAP = 18.0  # grey levels between a drawn background and the picture's
MEAN_SLACK = 20.0  # grey levels between a photograph's mean and the picture's
MAX_STRANGE = 60.0  # grey levels off the background that make a pixel part of an object
MAX_STRANGE_PIXELS = 20  # in one empty place; the smallest object covers more
CUTS = 24  # cuts of a photograph from which its roughness is known


def block_means(values: Picture) -> Picture:
    """Means of 4x4 blocks, [64, 64, C] -> [16, 16, C]."""
    side = values.shape[0] // 4
    return values.reshape(side, 4, side, 4, -1).mean(axis=(1, 3))


def free_pixels(*scenes: Scene) -> NDArray[np.bool_]:
    """Pixels well away from every object of the scenes, bool [64, 64]."""
    return ~grown(silhouettes({thing for scene in scenes for thing in scene.things}), 3)


def background_changed(picture: Picture, source: Scene, target: Scene) -> bool:
    """Whether the background is away from the source's, at least half as far as the target's is."""
    free = free_pixels(source, target)
    old, new = (render_background(scene.background).astype(np.float32)[free] for scene in (source, target))
    return bool(np.abs(picture[free] - old).mean() >= 0.5 * np.abs(new - old).mean())


def shows_background(picture: Picture, scene: Scene) -> bool:
    """Whether a scene's background is there: a drawn one by its colours, a photograph by brightness and roughness."""
    free = free_pixels(scene)
    if scene.background.kind in ("plain", "gradient"):
        expected = render_background(scene.background).astype(np.float32)
        return bool(np.abs(picture - expected)[free].mean() <= MAX_FLAT_GAP)
    mean, least, most = _photograph_statistics(scene.background.photograph)
    colourful = float(np.ptp(picture[free].mean(axis=0)))
    found, rough = _brightness_and_roughness(picture, free)
    return abs(found - mean) <= MEAN_SLACK and 0.5 * least <= rough <= 1.6 * most and colourful <= MEAN_SLACK


def _brightness_and_roughness(picture: Picture, free: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean and standard deviation of the 4x4 blocks that lie wholly in `free`."""
    whole = block_means(free.astype(np.float32)[..., None])[..., 0] == 1.0
    blocks = block_means(picture.mean(axis=2, keepdims=True))[..., 0][whole]
    return float(blocks.mean()), float(blocks.std())


@cache
def _photograph_statistics(name: str) -> tuple[float, float, float]:
    """Mean brightness, least and greatest roughness over cuts of a photograph."""
    everywhere = np.ones((SIDE, SIDE), dtype=np.bool_)
    found = []
    for index in range(CUTS):
        cut = photographs.cut(photographs.draw_cut(Draws(0, "roughness", index), name)).astype(np.float32)
        found.append(_brightness_and_roughness(cut, everywhere))
    means, roughness = np.array(found).T
    return float(means.mean()), float(roughness.min()), float(roughness.max())


def effect_applied(picture: Picture, source: Scene, target: Scene) -> bool:
    """Whether the picture has gone at least half of the way from the source to its look under the target's effect."""
    old, new = render(source).astype(np.float32), render(target).astype(np.float32)
    if target.effect == "pixelate":  # which leaves block means alone and takes the detail within blocks
        detail = old - _spread_out(block_means(old))
        found = picture - _spread_out(block_means(picture))
        remains = float((found * detail).sum() / np.square(detail).sum())
        same = np.abs(block_means(picture) - block_means(old)).mean() <= MAX_FLAT_GAP
        return bool(same) and abs(remains) <= MAX_DETAIL
    left = np.square(block_means(picture) - block_means(new)).sum()
    whole = np.square(block_means(old) - block_means(new)).sum()
    return bool(left <= MAX_REST**2 * whole)


def _spread_out(blocks: Picture) -> Picture:
    return blocks.repeat(4, axis=0).repeat(4, axis=1)


def structure_kept(picture: Picture, source: Scene, target: Scene) -> bool:
    """Whether light and dark lie as in the photograph or as in its goal."""
    found = picture.mean(axis=2).ravel()
    if found.std() < 1.0:
        return False
    expected = (render(scene).astype(np.float32).mean(axis=2).ravel() for scene in (source, target))
    return any(float(np.corrcoef(found, each)[0, 1]) >= MIN_CORRELATION for each in expected)


def free_of_things(picture: Picture, scene: Scene) -> bool:
    """Whether nothing like an object stands at the places that the scene leaves free."""
    taken = {thing.place for thing in scene.things}
    free = free_pixels(scene)
    centres = [cell_centre(place) for place in PLACES if place not in taken]
    areas = [(slice(y - 9, y + 9), slice(x - 9, x + 9)) for x, y in centres]
    return all((_strange(picture[area], scene) & free[area]).sum() <= MAX_STRANGE_PIXELS for area in areas)


def _strange(area: Picture, scene: Scene) -> NDArray[np.bool_]:
    """Pixels that a background would not show: unlike the rest of their row, or coloured on a grey photograph."""
    if scene.background.kind == "texture":
        return np.ptp(area, axis=2) > MAX_STRANGE
    return np.abs(area - np.median(area, axis=1, keepdims=True)).max(axis=2) > MAX_STRANGE
