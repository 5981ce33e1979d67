"""A picture that shows results: source | references | edited | target | instruction, one row a sample, with PIL."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_BACKGROUND, _INK, _FAINT, _CARD = (250, 250, 249), (28, 28, 30), (120, 120, 126), (255, 255, 255)
_FRAME = (214, 214, 218)
_GAP, _MARGIN, _HEADER = 14, 22, 30
_BETWEEN = 4


@dataclass
class Example:
    """One row: images uint8 [H,W,3], None where absent; `references` are the attached pictures."""

    key: str
    source: NDArray[np.uint8] | None
    edited: NDArray[np.uint8]
    target: NDArray[np.uint8] | None
    instruction: str
    edit_type: str = ""
    references: tuple[NDArray[np.uint8], ...] = ()


def varied(examples: Iterable[Example], num: int) -> list[Example]:
    """Choose `num` examples: first one of every edit type, then a second one of each, and so on, by key."""
    seen: Counter[str] = Counter()
    ranked = []
    for example in sorted(examples, key=lambda example: example.key):
        seen[example.edit_type] += 1
        ranked.append((seen[example.edit_type], example.key, example))
    return [example for _, _, example in sorted(ranked, key=lambda entry: entry[:2])[:num]]


def draw_grid(examples: Sequence[Example], tile: int = 192, text_width: int = 300) -> Image.Image:
    """Draw one row an example; tiles are scaled to `tile` pixels, small images by whole factors so they stay crisp.

    Columns that no example has an image for are left out; several references share one tile.

    Raises:
        ValueError: without examples.
    """
    if not examples:
        raise ValueError("grid: expected at least one example, found none")
    columns = {title: tiles for title, tiles in _columns(examples).items() if any(tiles)}
    width = 2 * _MARGIN + len(columns) * (tile + _GAP) + text_width
    height = 2 * _MARGIN + _HEADER + len(examples) * (tile + _GAP) - _GAP
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    lefts = [_MARGIN + column * (tile + _GAP) for column in range(len(columns) + 1)]
    for left, title in zip(lefts, (*columns, "instruction"), strict=True):
        draw.text((left, _MARGIN - 4), title, fill=_FAINT, font=_font(16))
    for row, example in enumerate(examples):
        top = _MARGIN + _HEADER + row * (tile + _GAP)
        for left, tiles in zip(lefts, columns.values(), strict=False):
            _draw_tile(canvas, draw, tiles[row], left, top, tile)
        _draw_text(draw, example, lefts[-1], top, text_width, tile)
    return canvas


def _columns(examples: Sequence[Example]) -> dict[str, list[list[NDArray[np.uint8]]]]:
    """Images of each tile by column and row."""
    return {
        "source": [[example.source] if example.source is not None else [] for example in examples],
        "references": [[*example.references] for example in examples],
        "edited": [[example.edited] for example in examples],
        "target": [[example.target] if example.target is not None else [] for example in examples],
    }


def _draw_tile(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    images: Sequence[NDArray[np.uint8]],
    left: int,
    top: int,
    tile: int,
) -> None:
    """One image, or several as a square of smaller ones."""
    box = (left - 1, top - 1, left + tile, top + tile)
    draw.rectangle(box, fill=_CARD, outline=_FRAME)
    if not images:
        draw.text((left + tile / 2, top + tile / 2), "none", fill=_FAINT, font=_font(16), anchor="mm")
    side = math.ceil(math.sqrt(len(images)))
    for number, pixels in enumerate(images):
        part = (tile - (side - 1) * _BETWEEN) // side
        image = _fit(Image.fromarray(pixels), part)
        corner = left + number % side * (part + _BETWEEN), top + number // side * (part + _BETWEEN)
        canvas.paste(image, (corner[0] + (part - image.width) // 2, corner[1] + (part - image.height) // 2))


def _fit(image: Image.Image, tile: int) -> Image.Image:
    factor = tile / max(image.size)
    if factor >= 2:
        whole = int(factor)
        image = image.resize((image.width * whole, image.height * whole), Image.Resampling.NEAREST)
        factor = tile / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _draw_text(draw: ImageDraw.ImageDraw, example: Example, left: int, top: int, width: int, height: int) -> None:
    if example.edit_type:
        draw.text((left, top + 2), example.edit_type, fill=_FAINT, font=_font(15))
        top, height = top + 28, height - 28
    for size in (20, 17, 14, 12):
        font, line_height = _font(size), int(size * 1.35)
        lines = wrap(draw, example.instruction, font, width)
        if len(lines) * line_height <= height:
            break
    else:
        lines = [*lines[: height // line_height - 1], "..."]
    for number, line in enumerate(lines):
        draw.text((left, top + number * line_height), line, fill=_INK, font=font)


def wrap(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels; a single longer word gets a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font=font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
