"""Batches of one split of the data that a YAML describes, every sample once."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L

from datamodules.schema import take
from mmig.base.settings import RefusedSettingsError, instantiate
from mmig.evaluation.settings import SettingsError, read_yaml

HELD_OUT = "test_split"
"""Argument of a datamodule that has further held-out splits: what its test loader reads."""


class SplitBatches:
    """One split of a datamodule; under several ranks each reads every batch and takes its rows of it.

    Args:
        loader: yields batches of the schema, every sample once.
        batch_size: samples of a batch over all ranks.
        rank, world_size: which rows are ours. The faults of a batch go to rank 0, so that they count once.
        limit: only the first so many samples of the split, the same ones on any number of ranks.

    Attributes:
        num_samples: samples of this rank, at most.
    """

    def __init__(
        self, loader: Any, batch_size: int, rank: int = 0, world_size: int = 1, limit: int | None = None
    ) -> None:
        self.loader, self.rank, self.world_size, self.limit = loader, rank, world_size, limit
        available: int = getattr(loader, "epoch_size", len(loader) * batch_size)
        self.num_samples = -(-(available if limit is None else min(available, limit)) // world_size)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        num_left = self.limit
        for batch in self.loader:
            end = len(batch["key"]) if num_left is None else min(num_left, len(batch["key"]))
            rows = range(self.rank, end, self.world_size)
            part = dict(batch) if len(rows) == len(batch["key"]) else take(batch, rows)
            yield part if self.rank == 0 else {**part, "faults": []}
            if num_left is not None and (num_left := num_left - end) == 0:
                return


def split_batches(
    path: Path,
    split: str,
    batch_size: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    limit: int | None = None,
) -> SplitBatches:
    """Batches of a split of the datamodule under `data` of a YAML; what has to be written first is written.

    Args:
        path: YAML with `data: {class_path, init_args}`.
        split: "val", "test", or a held-out split that the datamodule takes as its argument `test_split`.
        batch_size: samples a rank takes at once; None leaves it to the YAML (`eval_batch_size`).
        rank, world_size: which part of every batch is ours.
        limit: only the first so many samples of the split, over all ranks.

    Raises:
        SettingsError: for a YAML without such a section, arguments that the datamodule does not have, or a split that
            it does not have.
    """
    section = data_section(path)
    arguments = dict(section.get("init_args") or {})
    loader_name = f"{split}_dataloader"
    if split not in ("val", "test"):
        arguments[HELD_OUT], loader_name = split, "test_dataloader"
    if batch_size is not None:
        arguments["eval_batch_size"] = batch_size
    try:
        datamodule = build_datamodule({"class_path": section["class_path"], "init_args": arguments}, path)
    except SettingsError as error:
        raise SettingsError(f"--split {split}: {error}") from error
    whole_batch = getattr(datamodule, "eval_batch_size", 1) * world_size
    datamodule.eval_batch_size = whole_batch
    if rank == 0:
        prepare(datamodule, loader_name.split("_")[0])
    _barrier(world_size)
    loader = getattr(datamodule, loader_name)()
    if isinstance(loader, list):
        raise SettingsError(f"{path}: the data have no split {split!r}; name its folder in data.init_args.{split}")
    return SplitBatches(loader, whole_batch, rank, world_size, limit)


def data_section(path: Path) -> dict[str, Any]:
    """The section `data` of a YAML.

    Raises:
        SettingsError: if it is missing or has no class_path.
    """
    section = read_yaml(path).get("data")
    if not isinstance(section, dict) or "class_path" not in section:
        raise SettingsError(f"{path}: expected a section `data` with class_path and init_args, found {section!r}")
    return section


def build_datamodule(section: Mapping[str, Any], path: Path) -> L.LightningDataModule:
    """Instantiate a datamodule from class_path and init_args.

    Raises:
        SettingsError: naming the file, for a class or argument that does not exist.
    """
    try:
        return instantiate(L.LightningDataModule, section)
    except RefusedSettingsError as error:
        raise SettingsError(f"{path}: data: {error}") from error


def prepare(datamodule: Any, split: str) -> None:
    """Write what the split needs; a datamodule that can prepare one split alone is asked for no other."""
    if hasattr(datamodule, "prepare_split"):
        datamodule.prepare_split(split)
    else:
        datamodule.prepare_data()


def _barrier(world_size: int) -> None:
    if world_size > 1:
        import torch.distributed as dist

        dist.barrier()
