"""Data: tones with the pictures that go with them."""

import io
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from datamodules.schema import Sample
from tests.toy_method.painter import SIDE

RATE = 8000
SECONDS = 0.05
COLOURS = ((220, 40, 40), (40, 180, 60), (40, 60, 220), (230, 210, 40))


def tone(index: int) -> bytes:
    """A WAV file: the higher the pitch, the later the colour; volume and length vary."""
    draw = np.random.default_rng(index)
    pitch = 400 + 900 * (index % len(COLOURS))
    times = np.arange(int(RATE * SECONDS * draw.uniform(0.6, 1.0))) / RATE
    buffer = io.BytesIO()
    soundfile.write(buffer, draw.uniform(0.3, 0.9) * np.sin(2 * np.pi * pitch * times), RATE, format="WAV")
    return buffer.getvalue()


def make_sample(index: int) -> Sample:
    """Sample `index`: no source, one sound."""
    return {
        "key": f"tone-{index:04d}",
        "target": Image.new("RGB", (SIDE, SIDE), COLOURS[index % len(COLOURS)]),
        "instruction": "paint <audio:0>",
        "attachments": [{"kind": "audio", "role": "reference", "data": tone(index), "format": "wav"}],
    }


def tones(count: int = 12) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on, one of which is silent, and as many to validate on."""
    trained, validated = (list(map(make_sample, range(first, first + count))) for first in (0, 100))
    del trained[5]["attachments"]
    trained[5]["instruction"] = "paint anything"
    return trained, validated


def write_tone(file: Path, index: int = 2) -> Path:
    """A tone as a file."""
    file.write_bytes(tone(index))
    return file
