"""Image sizes of about equal area and several shapes, so that pictures that are no squares keep their sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Size = tuple[int, int]
"""(height, width) in pixels."""


class BucketError(ValueError):
    """Buckets that make no sense; one line says which number, what was expected and what was found."""


@dataclass(frozen=True)
class Buckets:
    """Which sizes there are; each global batch is of one of them, and each sample is in the one nearest to its shape.

    Args:
        step: sides are multiples of so many pixels; at least what autoencoder and UNet halve away together.
        max_ratio: longer side / shorter side of the longest shape.
    """

    step: int = 64
    max_ratio: float = 2.0

    def sizes(self, resolution: int) -> tuple[Size, ...]:
        """Sizes from upright to wide, each of at most resolution x resolution pixels; the square is one of them.

        Raises:
            BucketError: a number out of range, a resolution that is no multiple of `step`, or too many sizes.
        """
        if self.step < 1 or not 1 <= self.max_ratio <= 16:
            found = f"step {self.step}, max_ratio {self.max_ratio}"
            raise BucketError(f"data.init_args.buckets: expected step >= 1 and 1 <= max_ratio <= 16, found {found}")
        if resolution % self.step or resolution < self.step:
            raise BucketError(
                f"data.init_args.buckets.step: expected a divisor of resolution {resolution}, found {self.step}"
            )
        sizes: set[Size] = set()
        for longer in range(resolution, int(resolution * self.max_ratio) + 1, self.step):
            shorter = resolution**2 // longer // self.step * self.step
            if shorter and longer <= shorter * self.max_ratio:
                sizes |= {(shorter, longer), (longer, shorter)}
        if len(sizes) > 200:
            raise BucketError(
                f"data.init_args.buckets: expected at most 200 sizes, found {len(sizes)}; give a larger step"
            )
        return tuple(sorted(sizes, key=lambda size: (size[1] / size[0], size)))


def nearest(sizes: tuple[Size, ...], width: int, height: int) -> int:
    """Number of the size whose shape is nearest to that of an image: where least of it is cut away."""
    ratios = np.array([size[1] / size[0] for size in sizes])
    return int(np.abs(np.log(ratios * height / width)).argmin())


def square(sizes: tuple[Size, ...]) -> int:
    """Number of the square, where samples without any image go."""
    return nearest(sizes, 1, 1)
