"""Pictures that an evaluation leaves on disk: edited ones under the names that `--images` reads, and what they were
made from, so that a page and a later comparison can show both without the data.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmig.base.files import replacing, write_json
from mmig.editor import EditOutput
from mmig.evaluation.examples import collect_examples, places
from mmig.evaluation.grid import Example
from mmig.evaluation.places import FOLDER, MARK, TEXTS, picture_name
from mmig.evaluation.rows import SampleRow

logger = logging.getLogger(__name__)
ORIGINALS = ("source", "target")


class KeptPictures:
    """Writes edited pictures as PNG: `KEY.png` of seed 0, `KEY.SEED.png` of another, `texts.json` beside them.

    The sample's own pictures lie in `source/`, `target/` and `references/` (`KEY.N.png`). Everything is written under
    another name first and put in the place of an earlier evaluation's pictures at the end.

    Args:
        directory: folder of the evaluation.
        limit: pictures of the first so many samples of the split are kept, 0 for none.

    Raises:
        ValueError: the folder holds pictures that something else has put there.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self.folder, self.limit = directory / FOLDER, limit
        self._part, self._old = directory / f".{FOLDER}.part", directory / f".{FOLDER}.old"
        self._was_there = directory.exists()
        self._keys: set[str] = set()
        if self.folder.exists() and not (self.folder / MARK).is_file():
            raise ValueError(
                f"--out {directory}: {self.folder} holds pictures of something else, which would be replaced; give "
                "another --out, or move them away"
            )

    def begin(self, resumed: bool) -> None:
        """Make room for pictures, or go on with those of an evaluation that did not end; on rank 0, before any writes.

        The folder of unfinished ones is there from here on, so that where it is missing on a resume the evaluation had
        put them in their place already.
        """
        if not resumed:
            self.clear()
        elif not self._part.exists() and self.folder.exists():
            os.replace(self.folder, self._part)
        shutil.rmtree(self._old, ignore_errors=True)
        self._part.mkdir(parents=True, exist_ok=True)
        for half in self._part.rglob(".*.png"):  # a process that was killed was writing it; no key begins with a dot
            half.unlink()

    def clear(self) -> None:
        """Remove what an evaluation that did not end has left; on rank 0, after all ranks have written."""
        shutil.rmtree(self._part, ignore_errors=True)
        if not self._was_there and self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()

    def __call__(self, seed: int, batch: Mapping[str, Any], output: EditOutput) -> None:
        """Write the edits of a batch of this rank, of images in [-1,1]; those without a picture have no file."""
        if not self.limit:
            return
        self._keys |= self._chosen(batch)
        for example in collect_examples(batch, output):
            if example.key in self._keys:
                _save(example.edited, self._part / picture_name(example.key, seed))
                self._save_originals(example)

    def finish(self, rows: Iterable[SampleRow]) -> None:
        """Add the texts and put the new pictures in the place of the old ones; on rank 0, after all ranks' edits.

        Where several sources share a key, so that their pictures would share a name, none of these is kept.
        """
        rows = list(rows)
        if shared := {row.key.partition(".")[0] for row in rows if "." in row.key}:
            logger.info("no pictures kept of %d keys that samples of several sources share", len(shared))
            for row in rows:
                if row.key in shared:
                    (self._part / picture_name(row.key, row.seed)).unlink(missing_ok=True)
        there = {path.stem for path in self._part.glob("*.png")}
        names = {picture_name(row.key, row.seed).removesuffix(".png"): row.text for row in rows if "." not in row.key}
        if texts := {name: text for name, text in names.items() if text and name in there}:
            write_json(self._part / TEXTS, texts)
        if there:
            write_json(self._part / MARK, {"pictures": len(there), "limit": self.limit})
        if self.folder.exists():
            os.replace(self.folder, self._old)  # so that at no moment a part of it lies under its name
        if there:
            os.replace(self._part, self.folder)
        for left in (self._part, self._old):
            shutil.rmtree(left, ignore_errors=True)

    def _chosen(self, batch: Mapping[str, Any]) -> set[str]:
        """Keys of a batch that are among the first samples; where the data do not say which these are, this rank's."""
        placed = list(zip(batch["key"], places(batch), strict=True))
        if any(place is None for _, place in placed):
            return set(batch["key"][: max(0, self.limit - len(self._keys))])
        return {key for key, place in placed if place < self.limit}

    def _save_originals(self, example: Example) -> None:
        name = picture_name(example.key)
        originals = {f"{kind}/{name}": getattr(example, kind) for kind in ORIGINALS}
        for number, pixels in enumerate(example.references):
            originals[f"references/{picture_name(example.key, number + 1)}"] = pixels
        for place, pixels in originals.items():
            if pixels is not None and not (self._part / place).exists():
                _save(pixels, self._part / place)


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
