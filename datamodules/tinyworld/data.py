"""The small world as a LightningDataModule: writes the shards that are missing, then reads them like any others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from datamodules.shard_data import ShardData, Split
from datamodules.shard_index import INDEX_FILE, ShardIndex
from datamodules.shard_writer import HeldError, wait_for_writer
from datamodules.tinyworld.splits import SPLITS
from datamodules.tinyworld.world import DENOISER_KINDS, World, level_of
from datamodules.tinyworld.write import folder_name, old_folder_name, write_split

logger = logging.getLogger(__name__)


class TinyWorldData(ShardData):
    """Training, validation and test splits of the small world.

    Folders under `root` are named after all that their samples depend on, so changed settings never meet old shards.
    Shards of level `full` that were written before splits went by hash are read where they are, and a warning says so.

    Args:
        root: folder for the shards of all settings.
        train_count: training samples.
        val_count: validation samples.
        test_count: test samples.
        level: "plain" (one or two objects on one colour) or "full".
        photographs: with real photographs (backgrounds and the photographic edits) from scikit-image; on level full.
        kinds: the kinds of instruction that are drawn; see `world`. "inferable" is for language models and tests.
        world_seed: which world; `seed` decides only order and augmentation.
        test_split: what `test` and `predict` read: "test" or a held-out split (unseen_pairs, unseen_counts,
            unseen_photographs, outline, outline_test, removals).
        writers: processes that draw missing shards (0: this one).
        pictures: draw them; without, samples are texts alone, for language models (absent images are zeros).
        centred: one object in the middle of every picture, and edits that leave it there; on level plain.
        objects: how many every goal picture shows; 0 for what the level has.
        settings: as of `ShardData`, but those about where shards are and about images of other shapes.

    Raises:
        ValueError: `test_split` is no split of the small world, `level` no level, a kind no kind, `objects` a number
            that no picture shows, or a split has less than one sample.
    """

    def __init__(
        self,
        root: str = "data/tinyworld",
        train_count: int = 20000,
        val_count: int = 500,
        test_count: int = 500,
        photographs: bool = True,
        world_seed: int = 0,
        test_split: str = "test",
        writers: int = 0,
        level: str = "full",
        kinds: tuple[str, ...] = DENOISER_KINDS,
        pictures: bool = True,
        centred: bool = False,
        objects: int = 0,
        **settings: Any,
    ) -> None:
        if test_split not in SPLITS:
            raise ValueError(f"data.init_args.test_split: expected one of {', '.join(SPLITS)}, found {test_split!r}")
        self.counts: dict[str, int] = {"train": train_count, "val": val_count, "test": test_count}
        for name, count in self.counts.items():
            if count < 1:
                raise ValueError(f"data.init_args.{name}_count: expected at least 1 sample, found {count}")
        self.sources = {"train": "train", "val": "val", "test": test_split}
        try:
            self.world = World(world_seed, level, photographs, tuple(kinds), pictures, centred, objects)
        except ValueError as error:
            raise ValueError(f"data.init_args.{error}") from error
        self.writers = writers
        train, val, test = (str(self._place(Path(root), self.sources[name], self.counts[name])) for name in self.counts)
        super().__init__(train=train, val=val, test=test, index_directory=None, storage=None, buckets=None, **settings)
        self.prepare_data_per_node = False  # one writer, also where several nodes share a file system

    def _place(self, root: Path, split: str, count: int) -> Path:
        """The folder of a split; one that was written before splits went by hash where that is the one there is."""
        place, old = root / folder_name(split, count, self.world), old_folder_name(split, count, self.world)
        if old is None or (place / INDEX_FILE).exists() or not (root / old / INDEX_FILE).exists():
            return place
        logger.warning("%s: read as it is; it has no `expressive`, and its splits go by index: delete it", root / old)
        return root / old

    def prepare_data(self) -> None:
        """Write the splits that are not there yet: training and validation to fit, else the one that is asked for."""
        stage = self.trainer.state.fn if self.trainer is not None else None
        needed = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}
        for split in needed.get(str(stage.value) if stage is not None else "", ("train", "val", "test")):
            self.prepare_split(cast(Split, split))

    def folder(self, split: Split) -> Path:
        """Where the shards of a split are, or will be."""
        return Path(cast(str, self.folders[split]))

    def is_written(self, split: Split) -> bool:
        """Whether a split is there and complete."""
        return (self.folder(split) / INDEX_FILE).exists()

    def load_index(self, split: Split) -> ShardIndex:
        """The index of a split. Raises ValueError where its samples are of another level, or as in `ShardData`."""
        index = super().load_index(split)
        level = level_of(index.open_members(0).key(0))
        if level != self.world.level:
            raise ValueError(
                f"{self.folder(split)}: expected samples of level {self.world.level}, found {level}; "
                f"set data.init_args.level: {level}, or delete the folder"
            )
        return index

    def prepare_split(self, split: Split, each: Callable[[], object] | None = None) -> None:
        """Write one split unless it is complete already; `each` is called after every sample that is written.

        Where another process writes it, as where two runs of a comparison start together, that one is waited for.
        """
        name, count, folder = self.sources[split], self.counts[split], self.folder(split)
        while not self.is_written(split):
            try:
                logger.info("writing %d samples of the small world's split %s to %s", count, name, folder)
                write_split(folder, name, count, self.world, self.writers, each)
            except HeldError:
                logger.info("%s: another process writes it; waiting for that", folder)
                wait_for_writer(folder)
