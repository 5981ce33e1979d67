"""A toy world for these tests: squares of four colours at four places, in words and pictures."""

import numpy as np
from PIL import Image

from experiments.tiny_backbones.word_list import WordList, words_of

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}
PLACES = ("left", "right", "top", "bottom")


def caption(colour: str, place: str) -> str:
    """A sentence of the toy corpus."""
    return f"A {colour} square at the {place} of a dark picture."


CORPUS = [caption(colour, place) for colour in COLOURS for place in PLACES] + [
    f"Make the square {colour}." for colour in COLOURS
]
WORDS = WordList(tuple(sorted(words_of(CORPUS))), ("A", "Make", "Image", "Instruction", "Response"))
SWAPS = {"colours": list(COLOURS), "places": list(PLACES)}


def picture(colour: str, place: str) -> Image.Image:
    """A 64 x 64 picture of the sentence of the toy corpus."""
    corner = {"left": (4, 22), "right": (40, 22), "top": (22, 4), "bottom": (22, 40)}[place]
    image = Image.new("RGB", (64, 64), (20, 20, 20))
    image.paste(COLOURS[colour], (*corner, corner[0] + 20, corner[1] + 20))
    return image


def mask(place: str) -> Image.Image:
    """Where the square of that picture is."""
    return Image.fromarray(
        (np.abs(np.asarray(picture("white", place))[..., 0].astype(int) - 240) < 1).astype(np.uint8) * 255
    )
