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
from datamodules.tinyworld.thresholds import Thresholds

CUTS = 24  # cuts of a photograph from which its roughness is known


def block_means(values: Picture) -> Picture:
    """Means of 4x4 blocks, [64, 64, C] -> [16, 16, C]."""
    side = values.shape[0] // 4
    return values.reshape(side, 4, side, 4, -1).mean(axis=(1, 3))


def free_pixels(*scenes: Scene) -> NDArray[np.bool_]:
    """Pixels well away from every object of the scenes, bool [64, 64]."""
    return ~grown(silhouettes({thing for scene in scenes for thing in scene.things}), 3)


def background_changed(picture: Picture, source: Scene, target: Scene, limits: Thresholds) -> bool:
    """Whether the background is away from the source's, a good part as far as the target's is."""
    free = free_pixels(source, target)
    old, new = (render_background(scene.background).astype(np.float32)[free] for scene in (source, target))
    return bool(np.abs(picture[free] - old).mean() >= limits.min_change * np.abs(new - old).mean())


def shows_background(picture: Picture, scene: Scene, limits: Thresholds) -> bool:
    """Whether a scene's background is there: a drawn one by its colours, a photograph by brightness and roughness."""
    free = free_pixels(scene)
    if scene.background.kind in ("plain", "gradient"):
        expected = render_background(scene.background).astype(np.float32)
        return bool(np.abs(picture - expected)[free].mean() <= limits.max_flat_gap)
    mean, least, most = _photograph_statistics(scene.background.photograph)
    colourful = float(np.ptp(picture[free].mean(axis=0)))
    found, rough = _brightness_and_roughness(picture, free)
    low, high = limits.roughness
    like = abs(found - mean) <= limits.mean_slack and colourful <= limits.mean_slack
    return like and low * least <= rough <= high * most


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


def effect_applied(picture: Picture, source: Scene, target: Scene, limits: Thresholds) -> bool:
    """Whether the picture has gone enough of the way from the source to its look under the target's effect."""
    old, new = render(source).astype(np.float32), render(target).astype(np.float32)
    if target.effect == "pixelate":  # which leaves block means alone and takes the detail within blocks
        detail = old - _spread_out(block_means(old))
        found = picture - _spread_out(block_means(picture))
        remains = float((found * detail).sum() / np.square(detail).sum())
        same = np.abs(block_means(picture) - block_means(old)).mean() <= limits.max_flat_gap
        return bool(same) and abs(remains) <= limits.max_detail
    left = np.square(block_means(picture) - block_means(new)).sum()
    whole = np.square(block_means(old) - block_means(new)).sum()
    return bool(left <= limits.max_rest**2 * whole)


def _spread_out(blocks: Picture) -> Picture:
    return blocks.repeat(4, axis=0).repeat(4, axis=1)


def structure_kept(picture: Picture, source: Scene, target: Scene, limits: Thresholds) -> bool:
    """Whether light and dark lie as in the photograph or as in its goal."""
    found = picture.mean(axis=2).ravel()
    if found.std() < 1.0:
        return False
    expected = (render(scene).astype(np.float32).mean(axis=2).ravel() for scene in (source, target))
    return any(float(np.corrcoef(found, each)[0, 1]) >= limits.min_correlation for each in expected)


def free_of_things(picture: Picture, scene: Scene, limits: Thresholds) -> bool:
    """Whether nothing like an object stands at the places that the scene leaves free."""
    taken = {thing.place for thing in scene.things}
    free = free_pixels(scene)
    centres = [cell_centre(place) for place in PLACES if place not in taken]
    areas = [(slice(y - 9, y + 9), slice(x - 9, x + 9)) for x, y in centres]
    strange = [_strangeness(picture[area], scene) > limits.max_strange for area in areas]
    counts = [int((found & free[area]).sum()) for found, area in zip(strange, areas, strict=True)]
    return max(counts, default=0) <= limits.max_strange_pixels


def _strangeness(area: Picture, scene: Scene) -> NDArray[np.float32]:
    """How far pixels are from what a background would show: the rest of their row, or grey on a photograph."""
    if scene.background.kind == "texture":
        return np.ptp(area, axis=2)
    return np.abs(area - np.median(area, axis=1, keepdims=True)).max(axis=2)


def farthest_patch(picture: Picture, source: Scene, target: Scene) -> float:
    """Distance in colour (grey levels) of the 8x8 patch of background that is farthest from its look in `target`.

    What all patches have in common, as where the whole picture is a little darker, does not count; 0 without any patch.
    """
    gap = _patch_means(picture - render(target).astype(np.float32))
    whole = _patch_means(free_pixels(source, target).astype(np.float32)[..., None])[..., 0] == 1.0
    if not whole.any():
        return 0.0
    strayed = gap[whole] - np.median(gap[whole], axis=0)
    return float(np.sqrt(np.square(strayed).sum(axis=1)).max())


def _patch_means(values: Picture) -> Picture:
    """Means of 8x8 patches in steps of 4, [64, 64, C] -> [15, 15, C]."""
    blocks = block_means(values)
    return (blocks[:-1, :-1] + blocks[1:, :-1] + blocks[:-1, 1:] + blocks[1:, 1:]) / 4
