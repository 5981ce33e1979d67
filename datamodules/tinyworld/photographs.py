"""The real photographs of the small world: files that lie inside the scikit-image wheel, known by name and hash.

Only PNG files are used, since decoders of JPEG may differ in the last bit. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.scene import SIDE, Background


class PhotographError(ValueError):
    """A sample photograph of scikit-image is missing or is another file than the one listed here."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """One file: its SHA-256, the words for it, how it is cut and on which side of the split it stands."""

    sha256: str
    words: str
    kind: str  # "texture": stands behind objects; "photograph": is the subject itself
    zooms: tuple[int, ...]
    coloured: bool = False
    held_out: bool = False


PHOTOGRAPHS: dict[str, Photograph] = {
    "brick.png": Photograph(
        "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf", "brick", "texture", zooms=(2, 3)
    ),
    "grass.png": Photograph(
        "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89", "grass", "texture", zooms=(1,)
    ),
    "moon.png": Photograph(
        "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577", "moon rock", "texture", zooms=(2, 3)
    ),
    "gravel.png": Photograph(
        "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
        "gravel",
        "texture",
        zooms=(1,),
        held_out=True,
    ),
    "astronaut.png": Photograph(
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "an astronaut",
        "photograph",
        zooms=(5, 6, 7),
        coloured=True,
    ),
    "coffee.png": Photograph(
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "a cup of coffee",
        "photograph",
        zooms=(5, 6),
        coloured=True,
    ),
    "camera.png": Photograph(
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a", "a cameraman", "photograph", zooms=(5, 6, 7)
    ),
    "coins.png": Photograph(
        "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba", "old coins", "photograph", zooms=(3, 4)
    ),
    "page.png": Photograph(
        "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3", "a printed page", "photograph", zooms=(2,)
    ),
    # The stereo pair shows one motorcycle twice: both stand on the training side.
    "motorcycle_left.png": Photograph(
        "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
        "a motorcycle",
        "photograph",
        zooms=(6, 7),
        coloured=True,
    ),
    "motorcycle_right.png": Photograph(
        "5fc913ae870e42a4b662314bc904d1786bcad8e2f0b9b67dba5a229406357797",
        "a motorcycle",
        "photograph",
        zooms=(6, 7),
        coloured=True,
    ),
    "chelsea.png": Photograph(
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "a cat",
        "photograph",
        zooms=(3, 4),
        coloured=True,
        held_out=True,
    ),
    "ihc.png": Photograph(
        "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
        "stained tissue",
        "photograph",
        zooms=(5, 6, 7),
        coloured=True,
        held_out=True,
    ),
}


def names(kind: str, held_out: bool) -> list[str]:
    """Files of one kind ("texture" or "photograph") on one side of the split."""
    return [name for name, photo in PHOTOGRAPHS.items() if photo.kind == kind and photo.held_out == held_out]


@cache
def load(name: str) -> NDArray[np.uint8]:
    """The whole photograph, uint8 [H, W, 3].

    Raises PhotographError when scikit-image or the file is missing, or the file is another one.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise PhotographError("photographs need scikit-image: install it, or ask for the world without photographs")
    path = Path(found.origin).parent / "data" / name
    if not path.is_file():
        raise PhotographError(f"{path}: this photograph is expected inside the scikit-image wheel; reinstall it")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != PHOTOGRAPHS[name].sha256:
        raise PhotographError(f"{path}: expected sha256 {PHOTOGRAPHS[name].sha256}, found {digest}")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def draw_cut(draws: Draws, name: str) -> Background:
    """A random square cut of the photograph `name`, as a background."""
    height, width, _ = load(name).shape
    photo = PHOTOGRAPHS[name]
    zoom = draws.choice(photo.zooms)
    left, top = draws.between(0, width - SIDE * zoom), draws.between(0, height - SIDE * zoom)
    return Background(photo.kind, photograph=name, left=left, top=top, zoom=zoom)


@lru_cache(maxsize=64)
def cut(background: Background) -> NDArray[np.uint8]:
    """The pixels of a cut, uint8 [64, 64, 3], read-only: means of zoom x zoom blocks, in integers, rounded half up."""
    zoom = background.zoom
    area = load(background.photograph)[
        background.top : background.top + SIDE * zoom, background.left : background.left + SIDE * zoom
    ]
    blocks = area.reshape(SIDE, zoom, SIDE, zoom, 3).sum(axis=(1, 3), dtype=np.int32)
    pixels = ((blocks + zoom * zoom // 2) // (zoom * zoom)).astype(np.uint8)
    pixels.setflags(write=False)
    return pixels
