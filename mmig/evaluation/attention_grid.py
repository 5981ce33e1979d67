"""A picture that shows where the denoiser looked: source | edited | one heat map a concept, drawn with PIL."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mmig.editor import ConceptAttention

_BACKGROUND, _INK, _FAINT, _FRAME = (250, 250, 249), (28, 28, 30), (120, 120, 126), (214, 214, 218)
_GAP, _MARGIN, _TITLE, _LEGEND = 16, 22, 34, 26
_STOPS = np.array([(18, 12, 52), (101, 21, 110), (203, 65, 73), (249, 150, 30), (252, 250, 170)], dtype=np.float64)
"""Colours from low to high attention, dark to light, so that the order also holds without colours."""


def draw_attention(
    source: Image.Image, edited: Image.Image, attention: ConceptAttention, sample: int = 0, tile: int = 240
) -> Image.Image:
    """Draw the concepts' maps of one sample over its edited image, each with its word.

    Each map is stretched from its lowest to its highest value, so colours compare places, not concepts.

    Args:
        source, edited: RGB.
        attention: of a batch; concepts that the text encoder did not read are left out.
        sample: which of the batch.
        tile: longer side of an image in pixels.
    """
    width, height = _scaled(edited.size, tile)
    tiles = [("source", source.resize((width, height), _filter(source, tile)))]
    tiles += [("edited", edited.resize((width, height), _filter(edited, tile)))]
    valid = attention.valid[sample].tolist()
    for word, values, found in zip(attention.words[sample], attention.maps[sample], valid, strict=False):
        if found:
            tiles.append((word, heat(tiles[1][1], values.numpy())))
    columns = min(len(tiles), 4)
    rows = -(-len(tiles) // columns)
    size = (
        2 * _MARGIN + columns * (width + _GAP) - _GAP,
        2 * _MARGIN + rows * (height + _TITLE + _GAP) - _GAP + _LEGEND,
    )
    canvas = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for number, (title, image) in enumerate(tiles):
        left = _MARGIN + number % columns * (width + _GAP)
        top = _MARGIN + number // columns * (height + _TITLE + _GAP)
        text = _shortened(draw, title, width)
        draw.text((left, top + 4), text, fill=_FAINT if number < 2 else _INK, font=_font(18))
        draw.rectangle((left - 1, top + _TITLE - 1, left + width, top + _TITLE + height), outline=_FRAME)
        canvas.paste(image, (left, top + _TITLE))
    _draw_legend(canvas, draw, len(tiles) > 2)
    return canvas


def heat(image: Image.Image, values: NDArray[np.float32]) -> Image.Image:
    """A map [h,w] as colours over the greys of an image; the map's lowest value is dark, its highest light."""
    low, high = float(values.min()), float(values.max())
    levels = Image.fromarray((values.astype(np.float32) - low) / max(high - low, 1e-6))
    levels = np.clip(np.asarray(levels.resize(image.size, Image.Resampling.BICUBIC)), 0, 1)
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    shade = 0.45 + 0.55 * grey / 255  # the image stays visible as light and shade of the colours
    return Image.fromarray((_colours(levels) * shade).round().astype(np.uint8))


def _colours(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Levels [...] in [0,1] -> RGB [...,3] in [0,255]."""
    places = np.linspace(0, 1, len(_STOPS))
    return np.stack([np.interp(levels, places, _STOPS[:, channel]) for channel in range(3)], axis=-1)


def _draw_legend(canvas: Image.Image, draw: ImageDraw.ImageDraw, has_maps: bool) -> None:
    bottom = canvas.height - _MARGIN + 2
    if not has_maps:
        text = "no concept of the response was found in what the text encoder reads"
        draw.text((_MARGIN, bottom - 14), _shortened(draw, text, canvas.width - 2 * _MARGIN, 13), _FAINT, _font(13))
        return
    bar = Image.fromarray(_colours(np.linspace(0, 1, 120)[None].repeat(10, axis=0)).round().astype(np.uint8))
    draw.text((_MARGIN, bottom - 15), "attention: low", fill=_FAINT, font=_font(13))
    left = _MARGIN + round(draw.textlength("attention: low", font=_font(13))) + 8
    canvas.paste(bar, (left, bottom - 12))
    draw.text((left + bar.width + 8, bottom - 15), "high", fill=_FAINT, font=_font(13))


def _scaled(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """Size in the picture; at least 48 pixels a side, so that a line of pixels can be seen."""
    factor = tile / max(size)
    width, height = (max(48, round(side * factor)) for side in size)
    return width, height


def _filter(image: Image.Image, tile: int) -> Image.Resampling:
    return Image.Resampling.NEAREST if 2 * max(image.size) <= tile else Image.Resampling.LANCZOS


def _shortened(draw: ImageDraw.ImageDraw, text: str, width: int, size: int = 18) -> str:
    font = _font(size)
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(f"{text}…", font=font) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
