"""One draw of augmentation for all images and masks of a sample, keyed by (seed, position): resize, crop, flip."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from PIL import Image

from datamodules.faults import BadSample
from datamodules.order import mix
from datamodules.schema import IMAGE_FIELDS, MASK_FIELDS, Sample, texts

_SIDES = re.compile(r"\b(?:left|right|(?:anti|counter)?-?clockwise)", re.IGNORECASE)
_SHORT_SIDE, _ACROSS, _DOWN, _FLIP = range(4)  # what a draw is for
_ASPECT_TOLERANCE = 0.02  # rounding of sizes by the tools that made the images


class Transform(Protocol):
    """What the stream applies to each decoded sample; `size` is the (height, width) of all it returns."""

    @property
    def size(self) -> tuple[int, int]: ...

    def __call__(self, sample: Sample, seed: int, position: int) -> Sample: ...


@dataclass(frozen=True)
class ImageTransform:
    """Resize the short side, cut a square, perhaps flip: the same for every image and mask of the sample.

    Attributes:
        resolution: side of the square in pixels.
        max_short_side: the short side is drawn from resolution..max_short_side; default always `resolution`.
        crop: where the square lies: "centre", or "random" along each side.
        flip: flip left-right with probability 1/2, but never when a text of the sample names left or right.
    """

    resolution: int
    max_short_side: int | None = None
    crop: Literal["centre", "random"] = "centre"
    flip: bool = False

    def __post_init__(self) -> None:
        if self.resolution < 1 or (self.max_short_side or self.resolution) < self.resolution:
            found = f"resolution {self.resolution}, max_short_side {self.max_short_side}"
            raise ValueError(f"transform: expected 1 <= resolution <= max_short_side, found {found}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every image and mask returned."""
        return self.resolution, self.resolution

    def __call__(self, sample: Sample, seed: int, position: int) -> Sample:
        """Transform a decoded sample; the result depends on it, `seed` and `position` alone.

        Raises:
            BadSample: "size", when images and masks of the sample differ in shape by more than rounding.
        """

        def draw(what: int) -> float:
            return mix(seed, position, what) / 2**64

        first = next((sample[field] for field in (*IMAGE_FIELDS, *MASK_FIELDS) if field in sample), None)
        if first is None:
            return sample
        width, height = first.size
        short = self.resolution + int(
            draw(_SHORT_SIDE) * ((self.max_short_side or self.resolution) - self.resolution + 1)
        )
        scale = short / min(width, height)
        scaled = max(round(width * scale), short), max(round(height * scale), short)
        across, down = (draw(_ACROSS), draw(_DOWN)) if self.crop == "random" else (0.5, 0.5)
        left, top = round(across * (scaled[0] - self.resolution)), round(down * (scaled[1] - self.resolution))
        flip = self.flip and draw(_FLIP) < 0.5 and not any(_SIDES.search(text) for text in texts(sample))

        def apply(image: Image.Image, mask: bool) -> Image.Image:
            _check_aspect(image, first)
            resampling = Image.Resampling.BILINEAR if mask else Image.Resampling.LANCZOS
            if image.size != scaled:
                across, down = image.width / scaled[0], image.height / scaled[1]
                right, bottom = (left + self.resolution) * across, (top + self.resolution) * down
                box = (left * across, top * down, min(right, image.width), min(bottom, image.height))
                image = image.resize((self.resolution, self.resolution), resampling, box)
            elif scaled != (self.resolution, self.resolution):
                image = image.crop((left, top, left + self.resolution, top + self.resolution))
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image

        return _map_images(sample, apply)


def _check_aspect(image: Image.Image, first: Image.Image) -> None:
    if abs(image.width * first.height / (image.height * first.width) - 1) > _ASPECT_TOLERANCE:
        raise BadSample(
            "size", f"images of {first.width}x{first.height} and {image.width}x{image.height} pixels in one sample"
        )


def _map_images(sample: Sample, apply: Callable[[Image.Image, bool], Image.Image]) -> Sample:
    result: dict[str, Any] = dict(sample)
    for field in (*IMAGE_FIELDS, *MASK_FIELDS):
        if field in result:
            result[field] = apply(result[field], field in MASK_FIELDS)
    if "concepts" in result:
        result["concepts"] = [
            {**concept, "mask": apply(concept["mask"], True)} if "mask" in concept else concept
            for concept in result["concepts"]
        ]
    return result  # type: ignore[return-value]
