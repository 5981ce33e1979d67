"""One draw of augmentation for all images and masks of a sample, keyed by (seed, position): resize, crop, flip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, Protocol

from PIL import Image

from datamodules.faults import BadSample
from datamodules.mirroring import forbids_mirroring
from datamodules.order import mix
from datamodules.pixels import same_shape
from datamodules.schema import IMAGE_FIELDS, MASK_FIELDS, Sample, texts

_SHORT_SIDE, _ACROSS, _DOWN, _FLIP = range(4)  # what a draw is for


class Transform(Protocol):
    """What the stream applies to each decoded sample.

    `size` is the (height, width) of all it returns; `least_size` what decoded images must cover, None if they must be
    whole.
    """

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def least_size(self) -> tuple[int, int] | None: ...

    def __call__(self, sample: Sample, seed: int, position: int) -> Sample: ...


@dataclass(frozen=True)
class ImageTransform:
    """Resize until it covers a square (or `shape`), cut that out, perhaps flip: the same for all images of a sample.

    Attributes:
        resolution: side of the square in pixels.
        max_short_side: the short side is drawn from resolution..max_short_side; default always `resolution`.
        crop: where the square lies: "centre", or "random" along each side.
        flip: flip left-right with probability 1/2, but never when a text of the sample forbids it (see `mirroring`).
        never_flip: further words that forbid it, `*` at their end for beginnings of words.
        shape: (height, width) to cut out instead of a square; `max_short_side / resolution` is then how many times as
            large as needed an image is at most.
        scaled_decoding: decode JPEGs of at least twice the needed size at a half, a quarter or an eighth of it: faster,
            and the pixels differ by less than 2/255 in the mean.
    """

    resolution: int
    max_short_side: int | None = None
    crop: Literal["centre", "random"] = "centre"
    flip: bool = False
    shape: tuple[int, int] | None = None
    scaled_decoding: bool = False
    never_flip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.resolution < 1 or (self.max_short_side or self.resolution) < self.resolution:
            found = f"resolution {self.resolution}, max_short_side {self.max_short_side}"
            raise ValueError(f"transform: expected 1 <= resolution <= max_short_side, found {found}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every image and mask returned."""
        return self.shape or (self.resolution, self.resolution)

    @property
    def least_size(self) -> tuple[int, int] | None:
        """As in `Transform`."""
        zoom = (self.max_short_side or self.resolution) / self.resolution
        return (ceil(self.size[0] * zoom), ceil(self.size[1] * zoom)) if self.scaled_decoding else None

    @property
    def geometry(self) -> str:
        """How images are cut, flips aside; cached features are of images that were cut so."""
        largest = self.max_short_side or self.resolution
        drawn = "" if largest == self.resolution else f" of {self.resolution}-{largest} px"
        return (
            "{1}x{0} px".format(*self.size)
            + f"{drawn}, {self.crop} crop"
            + (", scaled decoding" if self.scaled_decoding else "")
        )

    @property
    def is_drawn(self) -> bool:
        """Whether two epochs may see different cuts of an image; flips aside."""
        return self.crop == "random" or (self.max_short_side or self.resolution) > self.resolution

    def _forbids_flipping(self, sample: Sample) -> bool:
        return any(forbids_mirroring(text, self.never_flip) for text in texts(sample))

    def __call__(self, sample: Sample, seed: int, position: int) -> Sample:
        """Transform a decoded sample; the result depends on it, `seed` and `position` alone.

        Raises:
            BadSample: "size", when images and masks of the sample differ in shape by more than rounding.
            FeatureError: its cached features are of images that were cut in another way.
        """

        def draw(what: int) -> float:
            return mix(seed, position, what) / 2**64

        flip = self.flip and draw(_FLIP) < 0.5 and not self._forbids_flipping(sample)
        if "features" in sample:
            sample = {**sample, "features": sample["features"].seen(self.geometry, self.flip, flip)}
        images = [sample.get(field) for field in (*IMAGE_FIELDS, *MASK_FIELDS)]
        images += [concept.get("mask") for concept in sample.get("concepts", ())]
        first = next((image for image in images if isinstance(image, Image.Image)), None)
        if first is None:
            return sample
        width, height = first.size
        high, wide = self.size
        short = self.resolution
        if self.max_short_side is not None:
            short += int(draw(_SHORT_SIDE) * (self.max_short_side - self.resolution + 1))
        scale = max(wide * short / self.resolution / width, high * short / self.resolution / height)
        scaled = max(round(width * scale), wide), max(round(height * scale), high)
        across, down = (draw(_ACROSS), draw(_DOWN)) if self.crop == "random" else (0.5, 0.5)
        left, top = round(across * (scaled[0] - wide)), round(down * (scaled[1] - high))

        def apply(image: Image.Image, mask: bool) -> Image.Image:
            _check_aspect(image, first)
            resampling = Image.Resampling.BILINEAR if mask else Image.Resampling.LANCZOS
            if image.size != scaled:
                across, down = image.width / scaled[0], image.height / scaled[1]
                right, bottom = (left + wide) * across, (top + high) * down
                box = (left * across, top * down, min(right, image.width), min(bottom, image.height))
                image = image.resize((wide, high), resampling, box)
            elif scaled != (wide, high):
                image = image.crop((left, top, left + wide, top + high))
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image

        return _map_images(sample, apply)


def _check_aspect(image: Image.Image, first: Image.Image) -> None:
    if not same_shape(image.size, first.size):
        raise BadSample(
            "size", f"images of {first.width}x{first.height} and {image.width}x{image.height} pixels in one sample"
        )


def _map_images(sample: Sample, apply: Callable[[Image.Image, bool], Image.Image]) -> Sample:
    result: dict[str, Any] = dict(sample)
    for field in (*IMAGE_FIELDS, *MASK_FIELDS):
        if isinstance(result.get(field), Image.Image):  # one with cached features may be encoded still
            result[field] = apply(result[field], field in MASK_FIELDS)
    if "concepts" in result:
        result["concepts"] = [
            {**concept, "mask": apply(concept["mask"], True)} if "mask" in concept else concept
            for concept in result["concepts"]
        ]
    return result  # type: ignore[return-value]
