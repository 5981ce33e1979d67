"""Encoded photographs for the benches of the data path: windows of scikit-image's, as JPEG of quality 90."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image
from skimage import data


def photographs(count: int, side: int) -> Iterator[bytes]:
    """JPEGs of `side` x `side` pixels, as detailed as photographs of that size are; the same at every call."""
    sources = [Image.fromarray(load()) for load in (data.astronaut, data.chelsea, data.coffee)]
    draws = np.random.default_rng(0)
    for number in range(count):
        photograph = sources[number % len(sources)]
        window = min(*photograph.size, side) - int(draws.integers(0, 16))
        left, top = (int(draws.integers(0, length - window + 1)) for length in photograph.size)
        picture = photograph.crop((left, top, left + window, top + window)).resize((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()
