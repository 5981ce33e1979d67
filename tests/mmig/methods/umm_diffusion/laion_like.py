"""Shards of scikit-image's photographs, laid out as img2dataset does, and answers about them."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image

from datamodules.shards import index_shards

Entry = tuple[str, bytes | None, str | None]
"""Key, picture and caption of a sample."""


def photograph(name: str) -> np.ndarray:
    """Pixels of a photograph that scikit-image brings, uint8 [H,W] or [H,W,C]."""
    return getattr(skimage.data, name)()


def png(pixels: np.ndarray) -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_laion(folder: Path, shards: Sequence[Sequence[Entry]]) -> Path:
    """Write and index shards of `KEY.jpg`, `KEY.txt` and `KEY.json`; pictures keep their bytes, whatever they are."""
    folder.mkdir(parents=True)
    for number, entries in enumerate(shards):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for key, picture, caption in entries:
                about = json.dumps({"url": f"https://example.org/{key}", "status": "success"}).encode()
                text = None if caption is None else caption.encode()
                for suffix, data in (("jpg", picture), ("txt", text), ("json", about)):
                    if data is not None:
                        member = tarfile.TarInfo(f"{key}.{suffix}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
    index_shards(folder)
    return folder


def write_answers(path: Path, answers: dict[str, Any]) -> Path:
    """A file for --replay; of each key (label, score, box) of every box, or an answer as it is."""
    with path.open("w", encoding="utf-8") as file:
        for key, found in answers.items():
            if isinstance(found, list):
                labels, scores, boxes = (list(column) for column in zip(*found, strict=True)) if found else ([],) * 3
                found = {"boxes": boxes, "labels": labels, "scores": scores}
            file.write(json.dumps({"key": key, "answer": found}) + "\n")
    return path


def report_of(folder: Path) -> dict[str, Any]:
    """What conversion.json says of all samples."""
    return json.loads((folder / "conversion.json").read_bytes())["splits"][""]
