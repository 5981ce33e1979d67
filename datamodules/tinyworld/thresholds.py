"""The oracle's thresholds for each level, from thresholds.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from datamodules.tinyworld.world import LEVELS


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is asked of a picture.

    Of an object at its place: `min_projection`, how far the picture must go from the empty place (0) to the object (1);
    `max_residual`, the share of the object's structure that may be unexplained (1 on a uniform picture); `max_doubt`,
    the same for an object that is beyond doubt (two shapes differ by a tenth or more); `max_left`, the share of an
    object that may be left where it is gone.
    Of the rest: `min_kept`, share of the untouched objects without which no edit of a scene succeeds; `max_outside`,
    mean absolute difference of 4x4 block means from the source in grey levels; `max_stray` and `max_stray_whole`,
    distance in colour of any 8x8 patch of background from its expected look, beyond what all patches have in common,
    after edits of an object and of the background or the whole picture.
    Of backgrounds and effects: `min_change`, share of the way from the old background to the new; `max_rest`, share of
    the way to an effect that may be undone; `max_detail`, share of the detail within 4x4 blocks that pixelating may
    leave; `min_correlation` with a photograph, for its light and dark to be kept; `max_flat_gap`, grey levels between a
    drawn background and the picture's; `mean_slack`, the same between a photograph's mean and the picture's;
    `roughness`, factors of a photograph's least and greatest roughness.
    Of a whole scene: `max_strange`, grey levels off the background that make a pixel part of an object;
    `max_strange_pixels` of these in one empty place (the smallest object covers more).
    """

    min_projection: float
    max_residual: float
    max_doubt: float
    max_left: float
    min_kept: float
    max_outside: float
    max_stray: float
    max_stray_whole: float
    min_change: float
    max_rest: float
    max_detail: float
    min_correlation: float
    max_flat_gap: float
    mean_slack: float
    roughness: tuple[float, float]
    max_strange: float
    max_strange_pixels: int


@cache
def thresholds(level: str) -> Thresholds:
    """The thresholds of a level. Raises ValueError on an unknown one."""
    if level not in LEVELS:
        raise ValueError(f"level: expected one of {', '.join(LEVELS)}, found {level!r}")
    table = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))[level]
    return Thresholds(**table | {"roughness": tuple(table["roughness"])})
