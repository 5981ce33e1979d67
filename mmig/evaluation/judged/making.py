"""Makes the edited pictures of a benchmark, in its layout, each in the size of its source."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmig.base.files import replacing, write_json
from mmig.editor import Editor
from mmig.evaluation.editing import edit_image
from mmig.evaluation.judged.items import Item, JudgedError
from mmig.evaluation.pictures import read_image
from mmig.evaluation.places import MARK
from mmig.evaluation.unfinished import difference

logger = logging.getLogger(__name__)
FACTS = "made_by.json"
"""In the folder of the pictures: which editor made them, with which settings."""


def make_pictures(
    items: Sequence[Item],
    folder: Path,
    editor: Editor,
    facts: Mapping[str, Any],
    seed: int = 0,
    resolution: int | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the pictures that are not there yet, each whole or not at all; noise depends on seed and key alone.

    Items of several source pictures are left out, and a line says how many.

    Args:
        items: of the benchmark.
        folder: of the edited pictures.
        editor: on its device.
        facts: what it is (values of JSON or with a `str`); kept beside the pictures, for others must not join them.
        seed: sampling seed.
        resolution: longer side of what the editor sees; None for the source's own.
        device: where the editor is.
        on_progress: called with the number of pictures that are there, and of all.

    Raises:
        JudgedError: the folder has pictures of another editor, or of other settings.
        ValueError: a source that cannot be read, or one that the editor cannot edit.
    """
    _claim(folder, {**facts, "seed": seed, "resolution": resolution}, any(item.edited.is_file() for item in items))
    alone = [item for item in items if len(item.sources) == 1]
    if len(alone) < len(items):
        logger.info("%d items of several source pictures are left out", len(items) - len(alone))
    for done, item in enumerate(alone):
        on_progress(done, len(alone))
        if not item.edited.is_file():
            source = read_image(item.sources[0], f"source of {item.key}:")
            edited, _ = edit_image(
                editor, source, item.instruction, seed=seed, resolution=resolution, device=device, key=item.key
            )
            with replacing(item.edited) as temporary:
                edited.save(temporary)
    on_progress(len(alone), len(alone))


def _claim(folder: Path, facts: Mapping[str, Any], has_pictures: bool) -> None:
    path, now = folder / FACTS, json.loads(json.dumps(facts, default=str))
    if (folder / MARK).is_file() or (has_pictures and not path.is_file()):
        raise JudgedError(f"--pictures {folder}: holds pictures that something else has made; give another folder")
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if changed := difference(before, now):
            raise JudgedError(f"--pictures {folder}: its pictures were made otherwise: {changed}; give another folder")
    else:
        write_json(path, now)
