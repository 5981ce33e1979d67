"""Sample i of the illustration world: a figure, the same figure with one attribute changed, and their tags.

`target` with `target_caption` is what generators learn from; the pair with its instruction is an edit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.effects import Pixels
from datamodules.tinyworld.illustrations import ATTRIBUTES, SPLITS, Figure, draw_figure, instruct, split_of, tags
from datamodules.tinyworld.line_art import render_figure
from datamodules.tinyworld.sample import MAX_ATTEMPTS, Mask, Sample
from datamodules.tinyworld.split_hash import check_split

MIN_PIXELS = 12  # that an edit must change by more than `MIN_CHANGE` grey levels
MIN_CHANGE = 24


def draw_illustration(seed: int, split: str, index: int) -> Sample:
    """One sample, images as uint8 [64, 64, 3] and masks as bool [64, 64]; the same on every machine.

    Raises ValueError on an unknown split.
    """
    check_split(split, SPLITS)
    draws = Draws(seed, f"illustrations/{split}", index)
    source, target, name = _pair(draws, split)
    before, after = _drawn(source), _drawn(target)
    changed = _changed(source, target)
    old, new = getattr(source, name), getattr(target, name)
    described = tags(draws, target)
    return {
        "key": f"illustrations-{split}-{index:08d}",
        "source": before,
        "target": after,
        "target_mask": changed,
        "reference_mask": changed,
        "instruction": instruct(draws, name, old, new),
        "response": described,
        "source_caption": tags(draws, source),
        "target_caption": described,
        "edit_type": name,
        "object_phrase": new or old,
        "background_phrase": target.background,
        "concepts": [],
        "attachments": [],
        "metadata": {
            "world": "illustrations",
            "split": split,
            "index": index,
            "edit": {"attribute": name, "before": old, "after": new},
            "source_figure": source.to_dict(),
            "target_figure": target.to_dict(),
        },
    }


def _pair(draws: Draws, split: str) -> tuple[Figure, Figure, str]:
    """Two figures of a split that differ in one attribute, and its name."""
    name = draws.choice(tuple(ATTRIBUTES))
    for _ in range(MAX_ATTEMPTS):
        target = draw_figure(draws)
        others = [value for value in ATTRIBUTES[name] if value != getattr(target, name)]
        source = replace(target, **{name: draws.choice(others)})
        if split_of(target) == split == split_of(source) and int(_changed(source, target).sum()) >= MIN_PIXELS:
            return source, target, name
    raise RuntimeError(f"illustrations: no pair found that differs in {name!r} and belongs to split {split!r}")


@lru_cache(maxsize=8)
def _drawn(figure: Figure) -> Pixels:
    return render_figure(figure)


def _changed(first: Figure, second: Figure) -> Mask:
    """Where one sees that two figures are not the same, bool [64, 64]."""
    return np.abs(_drawn(first)[..., 0].astype(np.int32) - _drawn(second)[..., 0]) > MIN_CHANGE
