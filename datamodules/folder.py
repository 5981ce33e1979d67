"""A user's own pictures and table of edits as a LightningDataModule: converts them once, then reads shards."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from datamodules.check.items import Pair
from datamodules.convert import pairs as convert_pairs
from datamodules.convert.engine import Options, convert, digest_of
from datamodules.convert.folder import Folder
from datamodules.shard_data import ShardData, Split
from datamodules.sources import Source

logger = logging.getLogger(__name__)


class FolderData(ShardData):
    """Training and validation samples from a folder and a CSV or JSON with `source`, `target`, `instruction`.

    The shards lie in a folder of `root` named after the table and a digest of all rows and of the sizes and times of
    the pictures, so that a changed table or picture never meets old shards.

    Args:
        source: folder of the pictures.
        table: the edits; columns are said in `docs/finetune.md`.
        root: folder for the shards of all tables.
        val_fraction: share of the source pictures for validation, chosen by their names; 0 for none. Without meaning
            where the table has a column `split`.
        shapes: what becomes of pairs of different shapes: "resize" the target or "drop" the pair.
        beside: further sources that are mixed in, with weights that count beside `weight` (see `ShardData`).
        weight: of the user's own samples, where there are others beside.
        writers: processes that convert.
        resolution: side of the images in pixels.
        settings: as of `ShardData`, but `index_directory`.

    Raises:
        ValueError: a table or folder that cannot be used; one line names the row.
    """

    def __init__(
        self,
        source: str,
        table: str,
        root: str = "data/own",
        val_fraction: float = 0.1,
        shapes: Literal["resize", "drop"] = "resize",
        beside: list[Source] | None = None,
        weight: float = 1.0,
        writers: int = 1,
        resolution: int = 512,
        **settings: Any,
    ) -> None:
        self.edits, self.writers = Folder(source, shapes, table, val_fraction), writers
        self._splits = splits = self.edits.splits()
        if not splits.get("train"):
            raise ValueError(f"{table}: expected rows to train on, found none; check the column split")
        self.shards = Path(root) / f"{Path(table).stem}-{digest_of(splits)}"
        folders: dict[Split, str | None] = {
            split: str(self.shards / split) if split in splits else None for split in ("train", "val", "test")
        }
        super().__init__(
            train=[Source(str(folders["train"]), weight=weight), *beside] if beside else folders["train"],
            val=folders["val"],
            test=folders["test"] or folders["val"],
            resolution=resolution,
            index_directory=None,
            **settings,
        )
        self.prepare_data_per_node = False  # one writer, also where several nodes share a file system

    def raw_pairs(self) -> dict[str, tuple[Path, list[Pair]]]:
        """The rows of each split."""
        root = Path(self.edits.source)
        return {
            str(self.shards / split): (root, [as_pair(row, json.loads(row.notes)) for row in rows])
            for split, rows in self._splits.items()
        }

    def prepare_data(self) -> None:
        """Convert what is not there yet; what a killed process left is gone on with."""
        self._convert()
        super().prepare_data()

    def prepare_split(self, split: Split) -> None:
        """The same before one split alone is read, which no training has converted (evaluate.py, features)."""
        self._convert()
        super().prepare_split(split)

    def _convert(self) -> None:
        report = convert(self.edits, self.shards, Options(self.writers))
        for split, part in report["splits"].items():
            dropped = sum(part["dropped"].values())
            logger.info("%s/%s: %d samples, %d dropped", self.shards, split, part["samples"], dropped)
            if dropped:
                logger.warning("%s/%s: %d rows cannot be used, see conversion.json there", self.shards, split, dropped)


def as_pair(row: convert_pairs.Pair, notes: Mapping[str, Any]) -> Pair:
    """A row as the converter has it, as `datamodules.check` looks at it."""
    texts = {"instruction": row.requests[0].text, **notes["texts"]}
    return Pair(row.name, notes["where"], row.source, row.target, tuple(texts.items()))
