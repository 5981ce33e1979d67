"""Small samples for the tests of the shards and the stream."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import soundfile
from PIL import Image

from datamodules.schema import Sample

TYPES = ("add", "remove", "recolour")
SHAPES = ((24, 24), (48, 24), (24, 40), (25, 24))
"""(width, height) of pictures."""


def make_image(seed: int, size: int = 16, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, channels), np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def sine(seconds: float = 0.25, rate: int = 16_000, hertz: float = 440.0, channels: int = 1) -> np.ndarray:
    """A sound, float32 [n, channels], the same on all channels and a half of what is loudest."""
    tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(tone[:, None], channels, axis=1).astype(np.float32)


def sound(values: np.ndarray | None = None, kind: str = "WAV", rate: int = 16_000, **settings: str) -> bytes:
    """An encoded sound; WAV in floating point unless `subtype` says otherwise."""
    settings = ({"subtype": "FLOAT"} if kind == "WAV" else {}) | settings
    buffer = io.BytesIO()
    soundfile.write(buffer, sine() if values is None else values, rate, format=kind, **settings)
    return buffer.getvalue()


def make_samples(count: int, size: int = 16) -> Iterator[Sample]:
    for number in range(count):
        yield {
            "key": f"{number:06d}",
            "source": make_image(2 * number, size),
            "target": make_image(2 * number + 1, size),
            "instruction": f"make sphere {number} red",
            "response": "a red sphere",
            "metadata": {"number": number, **({"only here": [1, {"x": None}]} if number % 3 == 0 else {})},
        }


def make_edit(number: int) -> Sample:
    """An edit of one of three types and four shapes; one in ten says that it is for validation."""
    image = make_image(number, 8).resize(SHAPES[number % 4])
    return {
        "key": f"{number:06d}",
        "source": image,
        "target": image,
        "instruction": f"make sphere {number} red",
        "edit_type": TYPES[number % 3],
        "metadata": {"number": number, "split": "val" if number % 10 == 9 else "train"},
    }
