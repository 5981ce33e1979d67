"""A synthesised sound for every shape, colour and effect of the small world, never twice the same.

Shapes are tunes, colours held tones, photographic changes glides, styles and atmospheres noises. Pitch, length, timbre,
loudness, onset and noise vary from sound to sound; what a sound means stays in its voice.
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.order import STEP, spread
from datamodules.tinyworld.draws import Draws

RATE = 16_000  # samples a second
FORMAT = "wav"
MILLISECONDS = (850, 1150)
MAX_DETUNING = 30  # thousandths of the pitch
Signal = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Voice:
    """How a sound is made.

    Attributes:
        pitch: of its first note, in Hz.
        notes: one after the other, in semitones above `pitch`.
        glides: whether notes flow into each other rather than being struck.
        partials: loudness of the first overtones in percent.
        breath: percent of the sound that is noise about its pitch instead of a tone.
        pulses: how often a second it swells.
    """

    pitch: int
    notes: tuple[int, ...] = (0,)
    glides: bool = False
    partials: tuple[int, ...] = (100, 40, 20)
    breath: int = 0
    pulses: int = 0


VOICES: dict[str, Voice] = {
    "circle": Voice(330, (0, 7, 12, 7, 0), glides=True),
    "square": Voice(262, (0, 0, 0, 0), partials=(100, 0, 60, 0, 40)),
    "triangle": Voice(330, (0, 7, 14)),
    "diamond": Voice(294, (0, 12, 24, 12), partials=(100, 10)),
    "cross": Voice(392, (12, 0, 12, 0, 12, 0)),
    "ring": Voice(988, (0, 0), partials=(100, 0, 0, 70, 0, 50)),
    "red": Voice(139, partials=(100, 80, 60, 40, 30)),
    "orange": Voice(187, partials=(100, 20, 70)),
    "yellow": Voice(252, partials=(100, 60)),
    "green": Voice(340, partials=(100, 10, 50)),
    "cyan": Voice(459, partials=(100, 70, 10)),
    "blue": Voice(620, partials=(100, 5)),
    "purple": Voice(837, partials=(100, 50, 30)),
    "pink": Voice(1130, partials=(100, 30)),
    "line art": Voice(3200, (0, 5, 0, 5, 0, 5), breath=100, pulses=0),
    "pixelate": Voice(700, (0, 14, 5, 19, 2, 12, 7, 17), partials=(100, 0, 80, 0, 60)),
    "negative": Voice(2400, (0, -36), glides=True, breath=90),
    "sepia": Voice(1500, breath=100, pulses=12),
    "night": Voice(4200, breath=20, pulses=6),
    "fog": Voice(180, breath=100),
    "brighter": Voice(400, (0, 36), glides=True, breath=90),
    "exposure up": Voice(160, (0, 12), glides=True, partials=(100, 60, 40)),
    "exposure down": Voice(320, (0, -12), glides=True, partials=(100, 60, 40)),
    "contrast up": Voice(500, (0, 12), glides=True, partials=(100, 0, 60), pulses=9),
    "contrast down": Voice(1000, (0, -12), glides=True, partials=(100, 0, 60), pulses=9),
    "saturation up": Voice(1800, (0, 12), glides=True, partials=(100, 20)),
    "saturation down": Voice(3600, (0, -12), glides=True, partials=(100, 20)),
}
"""By the word for a shape, a colour or an effect, as `Scene` has them."""


def sound(draws: Draws, name: str) -> bytes:
    """A WAV file, one channel of 16-bit samples, that stands for a shape, a colour or an effect; KeyError on others."""
    values = np.round(signal(draws, VOICES[name]) * 32767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(values.tobytes())
    return file.getvalue()


def signal(draws: Draws, voice: Voice) -> Signal:
    """One sound of a voice, float64 [n] in [-1, 1] at `RATE`."""
    count = RATE * draws.between(*MILLISECONDS) // 1000
    silent = RATE * draws.between(0, 60) // 1000
    pitch = voice.pitch * (1000 + draws.between(-MAX_DETUNING, MAX_DETUNING)) / 1000
    partials = [part * draws.between(75, 125) / 100 for part in voice.partials]
    loudness, hiss = draws.between(35, 85) / 100, draws.between(2, 20) / 1000
    time = np.arange(count) / count
    turns = np.cumsum(pitch * 2 ** (_notes(voice, time) / 12)) / RATE + draws.below(1000) / 1000
    tone = sum(part * np.sin(2 * np.pi * order * turns) for order, part in enumerate(partials, 1)) / sum(partials)
    breath = _smoothed(_noise(draws, count)) * np.sin(2 * np.pi * turns)
    mixed = ((100 - voice.breath) * tone + voice.breath * breath) / 100 * _loudness(voice, time, count)
    whole = np.concatenate([np.zeros(silent), mixed / np.abs(mixed).max()])
    return np.clip(loudness * whole + hiss * _noise(draws, len(whole)), -1, 1)


def _notes(voice: Voice, time: Signal) -> Signal:
    """Semitones above the pitch at times from 0 to 1."""
    if voice.glides:
        return np.interp(time, np.linspace(0, 1, len(voice.notes)), voice.notes)
    return np.array(voice.notes, dtype=np.float64)[
        np.minimum((time * len(voice.notes)).astype(int), len(voice.notes) - 1)
    ]


def _loudness(voice: Voice, time: Signal, count: int) -> Signal:
    """Swelling and fading, and the decay of struck notes, at times from 0 to 1."""
    edge = RATE // 50
    shape = np.minimum(1, np.minimum(np.arange(count), np.arange(count)[::-1]) / edge)
    if len(voice.notes) > 1 and not voice.glides:
        shape = shape * np.exp(-3 * (time * len(voice.notes) % 1))
    if voice.pulses:
        shape = shape * (1 - np.cos(2 * np.pi * voice.pulses * np.arange(count) / RATE)) / 2
    return shape


def _noise(draws: Draws, count: int) -> Signal:
    """White noise in [-1, 1), from one draw."""
    first = np.uint64(draws.below(1 << 62))
    numbers = spread(np.arange(count, dtype=np.uint64) * np.uint64(STEP) + first)
    return (numbers >> np.uint64(11)).astype(np.float64) / 2**52 - 1


def _smoothed(noise: Signal, width: int = 40) -> Signal:
    """Noise below about 400 Hz: means over `width` samples."""
    sums = np.cumsum(np.concatenate([np.zeros(1), noise, noise[: width - 1]]))
    return (sums[width:] - sums[:-width]) / width * width**0.5
