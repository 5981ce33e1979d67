"""Pictures inside of a page."""

import base64
import io
from functools import lru_cache
from pathlib import Path

from PIL import Image

LARGEST = 256
"""Longer side in pixels of a picture on a page; smaller ones are shown as they are, to the bit."""
QUALITY = 88


@lru_cache(maxsize=4096)
def data_uri(path: Path) -> str:
    """A picture as a data URI: the file itself up to 256 pixels, a WebP of that size of a larger one."""
    with Image.open(path) as image:
        if max(image.size) <= LARGEST:
            return _uri("png", path.read_bytes())
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="WEBP", quality=QUALITY)
    return _uri("webp", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
