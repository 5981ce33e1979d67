"""The oracle's thresholds are frozen: what was published rests on them."""

from dataclasses import asdict

import pytest

from datamodules.tinyworld.thresholds import thresholds
from datamodules.tinyworld.world import LEVELS

FROZEN = {
    "min_projection": 0.5,
    "max_residual": 0.6,
    "max_doubt": 0.01,
    "max_left": 0.4,
    "min_kept": 0.5,
    "max_outside": 12.0,
    "max_stray": 32.0,
    "min_change": 0.5,
    "max_detail": 0.45,
    "min_correlation": 0.7,
    "max_flat_gap": 18.0,
    "mean_slack": 20.0,
    "roughness": (0.5, 1.6),
    "max_strange": 60.0,
    "max_strange_pixels": 20,
}
OF_LEVEL = {
    "plain": {"max_rest": 0.35, "max_stray_whole": 48.0},
    "full": {"max_rest": 0.5, "max_stray_whole": float("inf")},
}


@pytest.mark.parametrize("level", LEVELS)
def test_thresholds_are_what_they_were_when_the_level_was_first_trained_on(level):
    """Other values make every figure of the level one of another measure: change them before training only."""
    assert asdict(thresholds(level)) == FROZEN | OF_LEVEL[level]


def test_an_unknown_level_is_named():
    with pytest.raises(ValueError, match="level: expected one of plain, full, found 'hard'"):
        thresholds("hard")
