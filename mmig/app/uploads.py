"""Files that come from the page: how large they may be, what they must be, and where they are kept.

Nothing of a file's name is used: kept files have names of this program, and a suffix that their first bytes decide.
"""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from datamodules.schema import BadSample, decode_image
from mmig.app.asking import RequestError

LARGEST_FILE = 20 * 2**20
"""Bytes."""
LARGEST_PICTURE = 16 * 2**20
"""Pixels."""
MOST_ATTACHMENTS = 4
_SOUNDS = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg"}
_PICTURES = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "AVIF": "avif", "BMP": "bmp", "GIF": "gif", "TIFF": "tiff"}


def keep_picture(path: str | None, folder: Path, name: str, label: str) -> str:
    """Copy a picture that can be edited; returns the name that it has there.

    Args:
        path: where the browser's file was put.
        folder: where to.
        name: without a suffix.
        label: what the page calls it.

    Raises:
        RequestError: too large in bytes or pixels, or no picture.
    """
    data = _read(path, label)
    kind = _checked_picture(data, label)
    kept = f"{name}.{_PICTURES[kind]}"
    (folder / kept).write_bytes(data)
    return kept


def keep_attachments(paths: Sequence[Any] | None, folder: Path) -> tuple[tuple[str, str], ...]:
    """Copy attached pictures and sounds; returns (kind, name) each, in their order.

    Raises:
        RequestError: too many, too large, or neither a picture nor a sound.
    """
    given = list(paths or ())
    if len(given) > MOST_ATTACHMENTS:
        raise RequestError(
            f"Attachments: {len(given)} files are attached and at most {MOST_ATTACHMENTS} are taken; remove some."
        )
    kept = []
    for number, path in enumerate(given):
        label, name = f"Attachment {number}", f"attached{number}"
        data = _read(str(path), label)
        if (suffix := _SOUNDS.get(data[:4])) and not (suffix == "wav" and data[8:12] == b"WEBP"):
            (folder / f"{name}.{suffix}").write_bytes(data)
            kept.append(("audio", f"{name}.{suffix}"))
        else:
            kept.append(("image", keep_picture(str(path), folder, name, label)))
    return tuple(kept)


def _read(path: str | None, label: str) -> bytes:
    if not path or not Path(path).is_file():
        raise RequestError(f"{label}: the file did not arrive; choose it again.")
    if (size := Path(path).stat().st_size) > LARGEST_FILE:
        raise RequestError(
            f"{label}: the file has {size / 2**20:.1f} MB and at most {LARGEST_FILE // 2**20} MB are taken; "
            "make it smaller."
        )
    return Path(path).read_bytes()


def _checked_picture(data: bytes, label: str) -> str:
    """The format of a picture, by its header and then by decoding it whole."""
    try:
        with Image.open(io.BytesIO(data), formats=tuple(kind for kind in _PICTURES if kind in _known())) as header:
            kind, (width, height) = str(header.format), header.size
    except Image.DecompressionBombError:
        width, height, kind = LARGEST_PICTURE, LARGEST_PICTURE, ""
    except (OSError, ValueError, SyntaxError) as error:
        raise RequestError(f"{label}: this is no picture that can be read; give a PNG, JPEG or WebP.") from error
    if width * height > LARGEST_PICTURE:
        found = f"{width:,} × {height:,} pixels" if kind else "far more pixels than fit"
        raise RequestError(
            f"{label}: the picture has {found} and at most {LARGEST_PICTURE // 2**20} million are taken; "
            "make it smaller."
        )
    try:
        decode_image("its content", data, users_own=True)
    except BadSample as error:
        raise RequestError(f"{label}: the picture is damaged ({error.detail}); save it again as a PNG.") from error
    return kind


def _known() -> dict[str, Any]:
    Image.init()
    return Image.OPEN


def forget(folders: Sequence[Path]) -> None:
    """Delete folders of results that nobody can see any longer."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
