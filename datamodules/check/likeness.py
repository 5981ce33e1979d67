"""Pictures that are the same, and pictures that are nearly the same, among thousands: digests and small copies."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 8
"""Of the small copies that are compared, in pixels."""
TOLERANCE = 4
"""Largest difference of any value of two small copies, of 255: what another JPEG quality or a resize leaves."""
MOST_ALIKE = 256
"""Samples whose hashes agree in a part that are compared one by one; flat pictures agree in thousands."""


def digest(*parts: Image.Image | str) -> bytes:
    """The same for the same pixels and texts; 16 bytes."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        text = part if isinstance(part, str) else f"{part.mode}{part.size}"
        found.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
        if not isinstance(part, str):
            found.update(part.tobytes())
    return found.digest()


def small_copy(image: Image.Image) -> NDArray[np.uint8]:
    """An image as 8 x 8 colours, [192]."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small).reshape(-1)


def difference_hash(image: Image.Image) -> int:
    """64 bits: whether each of 8 x 8 places is brighter than its neighbour to the right (dHash, Krawetz 2013)."""
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes(), "big")


class NearDuplicates:
    """Finds, for each sample that is added, an earlier one whose pictures look the same.

    Hashes that differ in at most three of 64 bits agree in one of four parts of 16 bits; whoever agrees in a part is
    compared by small copies.
    """

    def __init__(self) -> None:
        self._parts: list[dict[tuple[int, str], list[int]]] = [defaultdict(list) for _ in range(4)]
        self._copies: list[NDArray[np.uint8]] = []
        self._keys: list[str] = []

    def add(self, key: str, text: str, images: list[Image.Image]) -> str | None:
        """The key of an earlier sample with the same text and nearly the same pictures; None where there is none."""
        number, hashed = len(self._keys), difference_hash(images[0])
        copy = np.concatenate([small_copy(image) for image in images])
        groups = [self._parts[part][hashed >> 16 * part & 0xFFFF, text] for part in range(4)]
        alike = sorted({other for group in groups for other in group[-MOST_ALIKE:]})
        found = next((other for other in alike if self._is_near(copy, self._copies[other])), None)
        for group in groups:
            group.append(number)
        self._copies.append(copy)
        self._keys.append(key)
        return None if found is None else self._keys[found]

    def _is_near(self, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
        return one.shape == other.shape and int(np.abs(one.astype(np.int16) - other).max()) <= TOLERANCE
