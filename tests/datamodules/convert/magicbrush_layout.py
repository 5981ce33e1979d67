"""MagicBrush in its two layouts: the columns of its parquet files, and the folder of its test set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.datamodules.convert.layouts import as_png, picture

TURNS = [("139306", 1), ("139306", 2), ("242679", 1)]
"""Session and turn of the samples of the folder."""
INSIDE = np.zeros((16, 16), bool)
INSIDE[4:9, 2:11] = True
"""What the masks leave to edit."""


def source_pixels() -> np.ndarray:
    """Pixels of the picture that is edited."""
    return np.random.default_rng(0).integers(0, 200, (16, 16, 3), np.uint8)


def transparent() -> bytes:
    """A mask by its alpha channel."""
    return as_png(np.dstack([source_pixels(), np.where(INSIDE, 0, 255).astype(np.uint8)]))


def painted() -> bytes:
    """A mask painted white over the picture."""
    return as_png(np.where(INSIDE[..., None], 255, source_pixels()).astype(np.uint8))


def black_and_white() -> bytes:
    """A mask alone."""
    return as_png(np.where(INSIDE, 255, 0).astype(np.uint8))


def table_columns(turns: list[tuple[str, int]], **more: list[Any]) -> dict[str, list[Any]]:
    """A row a turn; `more` takes the place of columns."""
    return {
        "img_id": [session for session, _ in turns],
        "turn_index": [turn for _, turn in turns],
        "source_img": [as_png(source_pixels()) for _ in turns],
        "mask_img": [painted() for _ in turns],
        "instruction": [f"turn {turn} of {session}" for session, turn in turns],
        "target_img": [picture(turn, form="PNG") for _, turn in turns],
        **more,
    }


def folder_files(captions: str = "descriptions", turns: Sequence[tuple[str, int]] = TURNS) -> dict[str, Any]:
    """Every file of the folder by its path."""
    sessions: dict[str, list[dict[str, str]]] = {}
    files: dict[str, Any] = {}
    texts: dict[str, dict[str, dict[str, str]]] = {"local": {}, "global": {}}
    for session, turn in turns:
        given = f"{session}-input.png" if turn == 1 else f"{session}-output{turn - 1}.png"
        entry = {"input": given, "mask": f"{session}-mask{turn}.png", "output": f"{session}-output{turn}.png"}
        sessions.setdefault(session, []).append({**entry, "instruction": f"turn {turn} of {session}"})
        files[f"images/{session}/{entry['output']}"] = picture(turn, form="PNG")
        files[f"images/{session}/{entry['mask']}"] = transparent()
        if turn == 1:
            files[f"images/{session}/{given}"] = as_png(source_pixels())
        for kind, of_kind in texts.items():
            of_session = of_kind.setdefault(session, {})
            of_session[entry["output"]] = f"{kind} after {turn}"
            of_session.setdefault(given, f"{kind} before")
    return {"edit_sessions.json": sessions, **files, **{f"{kind}_{captions}.json": texts[kind] for kind in texts}}
