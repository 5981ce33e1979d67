"""A LightningDataModule over any folders of shards; the position of its training stream travels in checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning as L

from datamodules.endless import EndlessStream
from datamodules.shard_index import ShardIndex
from datamodules.stream import ShardStream
from datamodules.transforms import ImageTransform

Split = Literal["train", "val", "test"]


class ShardData(L.LightningDataModule):
    """Training, validation and test streams over shard folders written by `datamodules.shards.write_shards`.

    One training batch is this rank's part of one global batch. Validation and test give every sample once, in the order
    of the index; `predict` runs over the test split.

    Args:
        train, val, test: folders of shards; a split that is not needed may be None.
        global_batch_size: training samples a step over all ranks. eval_batch_size: samples a rank takes at once.
        resolution: side of the images in pixels. max_short_side, random_crop, flip: augmentation of the training split
            (see `ImageTransform`); never flipped when a text names left or right.
        num_workers: reading processes a rank and split. seed: decides order and augmentation.
        limit_val, limit_test: use only so many samples of a split.
        max_bad_fraction: share of bad samples above which the run stops. block_shards: shards shuffled together.
        index_directory: folder with one sub-folder a split holding the indices, when the data is read-only.
    """

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        global_batch_size: int = 16,
        resolution: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        eval_batch_size: int = 16,
        limit_val: int | None = None,
        limit_test: int | None = None,
        flip: bool = False,
        random_crop: bool = False,
        max_short_side: int | None = None,
        max_bad_fraction: float = 0.01,
        block_shards: int = 16,
        index_directory: str | None = None,
    ) -> None:
        super().__init__()
        self.folders: dict[Split, str | None] = {"train": train, "val": val, "test": test}
        self.limits: dict[Split, int | None] = {"train": None, "val": limit_val, "test": limit_test}
        self.global_batch_size, self.eval_batch_size = global_batch_size, eval_batch_size
        self.num_workers, self.seed = num_workers, seed
        self.max_bad_fraction, self.block_shards = max_bad_fraction, block_shards
        self.index_directory = index_directory
        crop: Literal["random", "centre"] = "random" if random_crop else "centre"
        self.train_transform = ImageTransform(resolution, max_short_side, crop, flip)
        self.eval_transform = ImageTransform(resolution)
        self._train_stream: ShardStream | None = None
        self._state: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Read the indices that `stage` needs, so that a missing shard is found before anything else starts."""
        fit: tuple[Split, ...] = ("train",) if self.folders["val"] is None else ("train", "val")
        needed: dict[str, tuple[Split, ...]] = {"fit": fit, "validate": ("val",)}
        for split in needed.get(stage, ("test",)):
            self.load_index(split)

    def train_dataloader(self) -> ShardStream | EndlessStream:
        """The training stream, continued from the checkpoint if one was loaded; without epochs under `max_steps`."""
        if self._train_stream is None:
            self._train_stream = self._stream("train")
            if self._state is not None:
                self._train_stream.load_state_dict(self._state)
        max_steps = self.trainer.max_steps if self.trainer else -1
        return self._train_stream if max_steps < 0 else EndlessStream(self._train_stream, max_steps)

    def val_dataloader(self) -> ShardStream | list[ShardStream]:
        """Every validation sample once; no loader without a validation split."""
        return [] if self.folders["val"] is None else self._stream("val")

    def test_dataloader(self) -> ShardStream:
        """Every test sample once."""
        return self._stream("test")

    def predict_dataloader(self) -> ShardStream:
        """Every test sample once."""
        return self._stream("test")

    def state_dict(self) -> dict[str, Any]:
        """State of the training stream, the same on every rank; empty before training."""
        state = self._state if self._train_stream is None else self._train_stream.state_dict()
        return {} if state is None else {"train": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the training stream from a checkpoint, whether it is already built or not."""
        self._state = state_dict.get("train")
        if self._train_stream is not None and self._state is not None:
            self._train_stream.load_state_dict(self._state)

    def load_index(self, split: Split) -> ShardIndex:
        """The index of a split.

        Raises:
            ValueError: the configuration names no folder for it, or it has no complete shards (`ShardError`).
        """
        folder = self.folders[split]
        if folder is None:
            raise ValueError(
                f"data.init_args.{split}: expected a folder of shards, found none; add it to the configuration"
            )
        return ShardIndex.load(folder, Path(self.index_directory) / split if self.index_directory else None)

    def _stream(self, split: Split) -> ShardStream:
        trainer, training = self.trainer, split == "train"
        world_size = trainer.world_size if trainer else 1
        return ShardStream(
            self.load_index(split),
            global_batch_size=self.global_batch_size if training else self.eval_batch_size * world_size,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=world_size,
            num_workers=self.num_workers,
            transform=self.train_transform if training else self.eval_transform,
            shuffle=training,
            drop_last=training,
            restart=not training,
            limit=self.limits[split],
            max_bad_fraction=self.max_bad_fraction,
            block_shards=self.block_shards,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )
