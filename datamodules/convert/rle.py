"""Run-length encoded masks as COCO's tools write them: column by column, first the run of zeros.

`counts` is a list of run lengths, or a text that packs them: each number in groups of five bits (the least first, bit 5
says that more follow, characters begin at "0"), signed, and from the fourth on as the difference to the one two before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from datamodules.faults import BadSample
from datamodules.images import MAX_PIXELS

_MAX_SHIFT = 60  # bits of a number, far more than a run of pixels takes


def decode_rle(mask: Any) -> Image.Image:
    """`{"size": [height, width], "counts": ...}` -> PIL "L" mask, 255 inside.

    Raises:
        BadSample: "mask", when it is none or its runs do not fill it.
    """
    try:
        height, width = (int(side) for side in mask["size"])
        runs = _unpack(mask["counts"]) if isinstance(mask["counts"], str) else [int(run) for run in mask["counts"]]
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise BadSample("mask", f"expected a run-length encoded mask with size and counts ({error!r})") from error
    if min(height, width) < 1 or height * width > MAX_PIXELS or any(run < 0 for run in runs):
        raise BadSample("mask", f"a mask of {width}x{height} pixels in {len(runs)} runs cannot be")
    if sum(runs) != height * width:
        raise BadSample("mask", f"the runs of a mask of {width}x{height} pixels have {sum(runs)} pixels")
    values = np.tile(np.array([0, 255], np.uint8), len(runs) // 2 + 1)[: len(runs)]
    return Image.fromarray(np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T))


def _unpack(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise ValueError(f"character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            if shift > _MAX_SHIFT:
                raise ValueError("a number that does not end")
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("a number that does not end")
    return runs
