"""A LightningDataModule over any shards or mixtures of them; its training stream's position travels in checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L

from datamodules.answers import read_answers
from datamodules.buckets import Buckets
from datamodules.check.glance import glance, local_samples
from datamodules.check.items import Pair
from datamodules.endless import EndlessStream
from datamodules.feature_shards import Compute, open_features, write_features
from datamodules.mixture import Mixture
from datamodules.remote_index import open_index
from datamodules.schema import Attachment, AttachmentSettings
from datamodules.shard_index import ShardIndex
from datamodules.sources import Source, open_sources
from datamodules.storage import Storage
from datamodules.stream import ShardStream
from datamodules.transforms import ImageTransform

Split = Literal["train", "val", "test"]


class ShardData(L.LightningDataModule):
    """Training, validation and test streams over shard folders written by `datamodules.shards.write_shards`.

    One training batch is this rank's part of one global batch. Validation and test give every sample once, in the order
    of the index; `predict` runs over the test split.

    Args:
        train: a folder of shards, its URL, or a list of sources, which may be parts of folders and have weights (see
            `Source`); None for a split that is not needed.
        val: as `train`.
        test: as `train`.
        global_batch_size: training samples a step over all ranks.
        resolution: side of the images in pixels.
        num_workers: reading processes a rank and split.
        seed: decides order and augmentation.
        eval_batch_size: samples a rank takes at once in validation and test.
        limit_val: use only so many validation samples, the first ones; of a list of sources the first ones of each, as
            many as its share of all samples is.
        limit_test: the same of the test samples.
        flip: mirror half of the training images, never where a text names a side or asks for lettering.
        never_flip: further words that forbid it beside those of `mirroring`, `*` at their end for beginnings of words.
        random_crop: cut training images at a place that is drawn.
        max_short_side: draw the size of training images (see `ImageTransform`).
        scaled_decoding: decode the JPEGs of training no larger than needed; validation and test decode them whole.
        max_bad_fraction: share of bad samples above which the run stops.
        block_shards: shards shuffled together.
        index_directory: folder with one sub-folder a split holding the indices, when the data is read-only; for
            sources see there.
        storage: time limit, attempts and local cache for URLs; see `Storage`.
        features: folder that `python -m mmig.run.cache` wrote for these data; its splits are read in place of the plain
            ones.
        buckets: sizes of several shapes for training images that are no squares; validation and test keep the square.
        attachment_size: side in pixels to which attached pictures are squashed.
        audio_rate: samples a second of attached sounds.
        audio_seconds: longest attached sound; a sample with a longer one is bad.
        max_attachments: most attachments of a sample; one with more is bad.
    """

    def __init__(
        self,
        train: list[Source] | str | None = None,
        val: list[Source] | str | None = None,
        test: list[Source] | str | None = None,
        global_batch_size: int = 16,
        resolution: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        eval_batch_size: int = 16,
        limit_val: int | None = None,
        limit_test: int | None = None,
        flip: bool = False,
        never_flip: list[str] | None = None,
        random_crop: bool = False,
        max_short_side: int | None = None,
        scaled_decoding: bool = False,
        max_bad_fraction: float = 0.01,
        block_shards: int = 16,
        index_directory: str | None = None,
        storage: Storage | None = None,
        features: str | None = None,
        buckets: Buckets | None = None,
        attachment_size: int = AttachmentSettings.attachment_size,
        audio_rate: int = AttachmentSettings.audio_rate,
        audio_seconds: float = AttachmentSettings.audio_seconds,
        max_attachments: int = AttachmentSettings.max_attachments,
    ) -> None:
        super().__init__()
        self.folders: dict[Split, list[Source] | str | None] = {"train": train, "val": val, "test": test}
        self.limits: dict[Split, int | None] = {"train": None, "val": limit_val, "test": limit_test}
        self.global_batch_size, self.eval_batch_size = global_batch_size, eval_batch_size
        self.num_workers, self.seed = num_workers, seed
        self.max_bad_fraction, self.block_shards = max_bad_fraction, block_shards
        self.index_directory, self.storage = index_directory, storage
        self.features = features
        self.attachments = AttachmentSettings(attachment_size, audio_rate, audio_seconds, max_attachments)
        crop: Literal["random", "centre"] = "random" if random_crop else "centre"
        self.sizes = buckets.sizes(resolution) if buckets else None
        self.train_transforms = [
            ImageTransform(resolution, max_short_side, crop, flip, shape, scaled_decoding, tuple(never_flip or ()))
            for shape in self.sizes or (None,)
        ]
        self.eval_transform = ImageTransform(resolution)
        self._train_stream: ShardStream | None = None
        self._state: dict[str, Any] | None = None

    def prepare_data(self) -> None:
        """Find which samples are chosen, and their buckets, where that is not known yet: in one process a machine."""
        stage = self.trainer.state.fn if self.trainer is not None else None
        for split in self._needed(str(stage.value) if stage is not None else "fit"):
            if isinstance(self.folders[split], list) or self.sizes:
                self.load_samples(split)

    def setup(self, stage: str) -> None:
        """Read the indices that `stage` needs, so that a missing shard is found before anything else starts."""
        for split in self._needed(stage):
            self.load_samples(split)

    def _needed(self, stage: str) -> tuple[Split, ...]:
        fit: tuple[Split, ...] = ("train",) if self.folders["val"] is None else ("train", "val")
        return {"fit": fit, "validate": ("val",)}.get(stage, ("test",))  # type: ignore[return-value]

    def train_dataloader(self) -> ShardStream | EndlessStream:
        """The training stream, continued from the checkpoint if one was loaded; without epochs under `max_steps`."""
        if self._train_stream is None:
            self._train_stream = self._stream("train", training=True)
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

    def in_order(self, split: Split) -> ShardStream:
        """Every sample of a split once, in the order of the index; those of training too, as validation reads its own:
        without weights, augmentation, buckets and cached features.
        """
        return self._stream(split, training=False)

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
        """The index of a split that is one folder.

        Raises:
            ValueError: the configuration names no folder for it, or it has no complete shards (`ShardError`).
        """
        folder = self.folders[split]
        if not isinstance(folder, str) or (folder.lstrip().startswith("[") and not Path(folder).is_dir()):
            found = "a list of sources" if isinstance(folder, list) else folder
            raise ValueError(
                f"data.init_args.{split}: expected a folder of shards, found {found}; correct the configuration"
            )
        index_folder = Path(self.index_directory) / split if self.index_directory else None
        return open_index(folder, index_folder, self.storage)

    def load_samples(self, split: Split, in_order: bool = False) -> Mixture:
        """The samples of a split, whether one folder or a list of sources.

        Buckets and weights are for training: the training samples have them, unless they are read `in_order`.

        Raises:
            ValueError: as in `load_index` and `open_sources`.
        """
        found, training = self.folders[split], split == "train" and not in_order
        if isinstance(found, str) and training and self.sizes:
            found = self.sources_of(split)
        if isinstance(found, list):
            sizes = self.sizes if training else None
            return open_sources(found, self.storage, sizes, training, self.num_workers)
        return Mixture([self.load_index(split)])

    def raw_pairs(self) -> dict[str, tuple[Path, list[Pair]]]:
        """Folder of shards -> the pictures that are converted into it when it is first used; {} where none are."""
        return {}

    def sources_of(self, split: Split) -> list[Source]:
        """Where the samples of a split come from, one folder or several; none where it has none."""
        found = self.folders[split]
        index = str(Path(self.index_directory) / split) if self.index_directory else None
        return [Source(found, index_directory=index)] if isinstance(found, str) else found or []

    def glance(self, needs: Sequence[str] = (), seconds: float = 1.0) -> str:
        """One line about the training data before anything else is built; "" where they are remote or not written yet.

        Raises:
            ValueError: none of them can be trained on (`NothingTrainsError`).
        """
        sources = self.sources_of("train")
        seen = local_samples(sources, self.raw_pairs(), self.attachments) if sources else None
        whole = all(source.filter() is None for source in sources)  # of a part nothing can be told without its filter
        return "" if seen is None else glance(seen, needs if whole else (), seconds)

    def prepare_split(self, split: Split) -> None:
        """Make what a split needs and does not have yet, as `prepare_data` does for those of a stage."""
        if self.folders[split] is not None:
            self.load_samples(split)

    def read_answers(self, split: Split) -> Iterator[tuple[str, dict[int, Attachment]]]:
        """Key and answers of each sample of a split's shards that has any; see `answers`. For scoring alone."""
        for source in self.load_samples(split).sources:
            yield from read_answers(source.index)

    def write_features(
        self,
        split: Split,
        directory: Path,
        compute: Compute,
        facts: Mapping[str, str],
        batch_size: int,
        done: Callable[[int], object],
    ) -> ShardIndex:
        """Write a split with features beside its images, cut as this configuration does; see `feature_shards`."""
        transform, *others = self.train_transforms if split == "train" else [self.eval_transform]
        if others:
            raise ValueError(
                "data.init_args.buckets: features are cached for images of one size; leave the buckets out"
            )
        self.prepare_split(split)
        index, attachments = self.load_index(split), self.attachments
        return write_features(index, directory, transform, compute, facts, batch_size, done, attachments)

    def _featured(self, split: Split, samples: Mixture) -> Mixture:
        """The shards with features in place of the plain ones, where the configuration names some for this split."""
        if not self._has_features(split):
            return samples
        if samples.whole_index is None:
            raise ValueError(
                f"data.init_args.features: expected one whole folder of shards as {split}, found a list of sources or "
                "buckets; leave the features out"
            )
        return Mixture([open_features(Path(cast(str, self.features)) / split, samples.whole_index)])

    def _encoded(self, split: Split) -> Collection[str]:
        """Image fields that the method in training does not look at where features stand for them; evaluation does."""
        method = self.trainer.lightning_module if self.trainer and split == "train" else None
        return getattr(method, "images_with_features", ())

    def _has_features(self, split: Split) -> bool:
        """Whether a split is read with features: training always, once the configuration names any."""
        return self.features is not None and (split == "train" or (Path(self.features) / split).exists())

    def _stream(self, split: Split, training: bool = False) -> ShardStream:
        trainer = self.trainer
        world_size = trainer.world_size if trainer else 1
        samples, limit = self.load_samples(split, in_order=not training), self.limits[split]
        whole_images = split == "train" and not training  # features stand for images that are cut as in training
        if limit is not None and len(samples.sources) > 1:
            samples = samples.first(limit)  # or all of them would be of the first source
        return ShardStream(
            samples if whole_images else self._featured(split, samples),
            global_batch_size=self.global_batch_size if training else self.eval_batch_size * world_size,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=world_size,
            num_workers=self.num_workers,
            transform=self.train_transforms if training else self.eval_transform,
            shuffle=training,
            drop_last=training,
            restart=not training,
            limit=limit,
            max_bad_fraction=self.max_bad_fraction,
            block_shards=self.block_shards,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            encoded=self._encoded(split) if training else (),
            same_as=samples.fingerprint,
            attachments=self.attachments,
        )
