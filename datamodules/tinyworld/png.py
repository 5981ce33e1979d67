"""PNG files of tiny images, written several times faster than a general encoder does."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
FILTER_NONE, FILTER_UP = 0, 2
GREY, TRUE_COLOUR = 0, 2


def png(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """An image, uint8 [H, W, 3], or a mask, bool [H, W] (stored in one bit a pixel), as a PNG file."""
    rows = np.packbits(pixels, axis=1) if pixels.ndim == 2 else pixels.reshape(len(pixels), -1)
    lines = np.empty((rows.shape[0], rows.shape[1] + 1), dtype=np.uint8)
    if pixels.ndim == 2:
        lines[:, 0] = FILTER_NONE
        lines[:, 1:] = rows
    else:
        lines[:, 0] = FILTER_UP
        lines[0, 1:] = rows[0]
        np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])
    depth, kind = (1, GREY) if pixels.ndim == 2 else (8, TRUE_COLOUR)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, kind, 0, 0, 0)
    data = zlib.compress(lines, level=1)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
