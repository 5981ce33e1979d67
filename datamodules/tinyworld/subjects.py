"""Subjects: objects with textures that no text names, so that only a picture of one can say what it looks like.

A texture is one of a parametrised family (pattern, period, angle, two colours); which of them are held out says a hash.
This file knows textures and draws objects with them; samples are made in `subject_samples`, judged in `subject_judge`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.effects import Pixels
from datamodules.tinyworld.render import RADIUS, REACH, SAMPLES, draw_thing, inside, render_background, window
from datamodules.tinyworld.scene import BACKGROUND_COLOURS, OBJECT_COLOURS, Colour, Scene, Thing

ANGLES: dict[str, tuple[int, ...]] = {
    "stripes": (0, 30, 60, 90, 120, 150),
    "zigzag": (0, 30, 60, 90, 120, 150),
    "bricks": (0, 30, 60, 90, 120, 150),
    "checks": (0, 30, 60),
    "dots": (0, 30, 60),
    "rings": (0,),
}
"""Patterns, and the angles in degrees at which each looks different."""
EXCHANGEABLE = frozenset({"stripes", "zigzag", "checks"})
"""Patterns that stay the same where their colours are exchanged."""
PERIODS = (5, 6, 8)  # pixels
COLOURS: dict[str, Colour] = {
    **OBJECT_COLOURS,
    **{name: BACKGROUND_COLOURS[name] for name in ("white", "black", "brown")},
    "teal": (0, 110, 110),
}
MIN_CONTRAST = 180  # least distance of a texture's two colours, in grey levels
HELD_OUT = 15  # percent of the combinations of pattern and colours
_TURNS = {0: (1024, 0), 30: (887, 512), 60: (512, 887), 90: (0, 1024), 120: (-512, 887), 150: (-887, 512)}
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Texture:
    """One of the family: `period` in pixels, `angle` in degrees, colours of its ground (`first`) and pattern."""

    pattern: str
    period: int
    angle: int
    first: str
    second: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form; `Texture(**data)` takes it back."""
        return asdict(self)

    @property
    def in_words(self) -> str:
        """All of it, behind a noun: "in white with red stripes, 6 pixels wide, turned 30 degrees"."""
        return (
            f"in {self.first} with {self.second} {self.pattern}, {self.period} pixels wide, turned {self.angle} degrees"
        )

    @property
    def held_out(self) -> bool:
        """Whether no training sample shows it: by a hash of pattern and colours, so that its next of kin are too."""
        name = f"{self.pattern}/{self.first}/{self.second}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") % 100 < HELD_OUT


def draw_texture(draws: Draws, held_out: bool | None = None) -> Texture:
    """A texture, from one side of the split unless `held_out` is None."""
    while True:
        pattern = draws.choice(tuple(ANGLES))
        first, second = in_order(pattern, *draws.pick(list(COLOURS), 2))
        texture = Texture(pattern, draws.choice(PERIODS), draws.choice(ANGLES[pattern]), first, second)
        if distance(COLOURS[first], COLOURS[second]) >= MIN_CONTRAST and held_out in (None, texture.held_out):
            return texture


def in_order(pattern: str, first: str, second: str) -> tuple[str, str]:
    """Two colours as a pattern has them: where it makes no difference, in alphabetical order."""
    return (second, first) if pattern in EXCHANGEABLE and first > second else (first, second)


def distance(first: Colour, second: Colour) -> int:
    """How far two colours are apart, in grey levels."""
    return int(sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5)


def has_second_colour(texture: Texture, x: Places, y: Places) -> NDArray[np.bool_]:
    """At which places (from the object's middle, in sixteenths of a pixel) a texture has its second colour."""
    cosine, sine = _TURNS[texture.angle]
    u, v = (x * cosine + y * sine) // 1024, (y * cosine - x * sine) // 1024
    period = texture.period * 16
    if texture.pattern == "stripes":
        return u % period < period // 2
    if texture.pattern == "zigzag":
        return (u + abs(v % (2 * period) - period) * 2 // 3) % period < period // 2
    if texture.pattern == "checks":
        return (u % (2 * period) < period) ^ (v % (2 * period) < period)
    if texture.pattern == "bricks":
        joint = period // 4
        shifted = u + v // period % 2 * period
        return (v % period < joint) | (shifted % (2 * period) < joint)
    if texture.pattern == "rings":
        squared, half = x * x + y * y, period // 2
        edges = sum((squared >= (half * number) ** 2).astype(np.int8) for number in range(1, 8))
        return np.asarray(edges % 2 == 1)
    across, down = u % period - period // 2, v % period - period // 2
    return across * across + down * down <= (period * 37 // 100) ** 2


def places(samples: int) -> tuple[Places, Places]:
    """Columns and rows of the samples of an object's tile, so many a pixel and direction, in sixteenths of a pixel."""
    steps = (np.arange(2 * REACH * samples, dtype=np.int64) * 2 - (2 * REACH * samples - 1)) * 8 // samples
    x, y = np.meshgrid(steps, steps)
    return x, y


@lru_cache(maxsize=512)
def _paint(shape: str, size: str, texture: Texture) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Paint of an object's tile (64 times its share of the pixel), and the share left to what is behind it."""
    x, y = places(SAMPLES)
    whole, second = inside(shape, x, y, 2 * RADIUS[size]), has_second_colour(texture, x, y)
    parts = [_counted(whole & ~second), _counted(whole & second)]
    tones = (np.array(COLOURS[name], dtype=np.int32) for name in (texture.first, texture.second))
    paint = sum(part * tone for part, tone in zip(parts, tones, strict=True)) + SAMPLES * SAMPLES // 2
    return np.asarray(paint), SAMPLES * SAMPLES - parts[0] - parts[1]


def _counted(samples: NDArray[np.bool_]) -> NDArray[np.int32]:
    side = 2 * REACH
    return samples.reshape(side, SAMPLES, side, SAMPLES).sum(axis=(1, 3), dtype=np.int32)[:, :, None]


def draw_subject(canvas: Pixels, thing: Thing, texture: Texture) -> None:
    """Draw an object with this texture, fixed to its middle, onto `canvas` (uint8 [64, 64, 3]) in place."""
    rows, columns, tile_rows, tile_columns = window(thing.x, thing.y)
    paint, rest = _paint(thing.shape, thing.size, texture)
    mixed = rest[tile_rows, tile_columns] * canvas[rows, columns] + paint[tile_rows, tile_columns]
    canvas[rows, columns] = mixed // (SAMPLES * SAMPLES)


def render_with_subjects(scene: Scene, textures: Mapping[Thing, Texture]) -> Pixels:
    """Pixels of a scene without effect, uint8 [64, 64, 3], its objects with their textures where they have one."""
    canvas = render_background(scene.background)
    for thing in scene.things:
        if thing in textures:
            draw_subject(canvas, thing, textures[thing])
        else:
            draw_thing(canvas, thing)
    return canvas
