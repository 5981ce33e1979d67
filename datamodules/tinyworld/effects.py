"""Global effects of the small world: styles, atmospheres and photographic changes, as integer functions of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Wide = NDArray[np.int32]


def _luma(wide: Wide) -> Wide:
    return (299 * wide[..., :1] + 587 * wide[..., 1:2] + 114 * wide[..., 2:] + 500) // 1000


def _scaled(wide: Wide, percent: tuple[int, int, int], plus: tuple[int, int, int]) -> Wide:
    return wide * np.array(percent, dtype=np.int32) // 100 + np.array(plus, dtype=np.int32)


def _line_art(wide: Wide) -> Wide:
    """White paper, dark lines where any colour channel changes between the two neighbours of a pixel."""
    padded = np.pad(wide, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = abs(padded[1:-1, 2:] - padded[1:-1, :-2])
    down = abs(padded[2:, 1:-1] - padded[:-2, 1:-1])
    strength = np.maximum(across, down).max(axis=2, keepdims=True)
    return np.repeat(255 - np.clip((strength - 20) * 2, 0, 255), 3, axis=2)


def _pixelate(wide: Wide) -> Wide:
    side = wide.shape[0] // 4
    blocks = (wide.reshape(side, 4, side, 4, 3).sum(axis=(1, 3), dtype=np.int32) + 8) // 16
    return blocks.repeat(4, axis=0).repeat(4, axis=1)


def _sepia(wide: Wide) -> Wide:
    return _scaled(_luma(wide), (95, 78, 55), (20, 12, 4))


def apply_effect(pixels: Pixels, effect: str) -> Pixels:
    """`pixels` (uint8 [64, 64, 3]) under one effect; "" returns them as they are. KeyError on an unknown effect."""
    if not effect:
        return pixels
    wide = pixels.astype(np.int32)
    if effect.startswith("saturation"):
        grey = _luma(wide)
        changed = grey + (wide - grey) * (19 if effect.endswith("up") else 2) // 10
    elif effect == "line art":
        changed = _line_art(wide)
    elif effect == "pixelate":
        changed = _pixelate(wide)
    elif effect == "sepia":
        changed = _sepia(wide)
    else:
        percent, plus = {
            "negative": ((-100, -100, -100), (255, 255, 255)),
            "night": ((32, 40, 62), (2, 4, 22)),
            "fog": ((36, 36, 36), (132, 136, 142)),
            "brighter": ((125, 125, 125), (48, 48, 48)),
            "exposure up": ((150, 150, 150), (20, 20, 20)),
            "exposure down": ((50, 50, 50), (0, 0, 0)),
            "contrast up": ((180, 180, 180), (-102, -102, -102)),
            "contrast down": ((40, 40, 40), (77, 77, 77)),
        }[effect]
        changed = _scaled(wide, percent, plus)
    return np.clip(changed, 0, 255).astype(np.uint8)


def difference(first: Pixels, second: Pixels) -> int:
    """Mean squared difference of two images over pixels and channels, an integer, in squared grey levels."""
    gap = first.astype(np.int32) - second.astype(np.int32)
    return int((gap * gap).sum()) // gap.size
