"""Batches of one split of the data that a YAML describes, every sample once."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L

from datamodules.schema import take
from mmig.base.commands import root_cause
from mmig.base.settings import RefusedSettingsError, instantiate
from mmig.evaluation.settings import SettingsError, read_yaml

SPLITS = ("train", "val", "test")
HELD_OUT = "test_split"
"""Argument of a datamodule that has further held-out splits: what its test loader reads."""


class SplitBatches:
    """A rank's part of the first `limit` samples of a loader, the same samples on any number of ranks.

    A loader with `part(rank, world_size, limit)`, such as `datamodules.stream.ShardStream`, reads and decodes these
    samples alone; all ranks get equally many batches, of which the last may be empty. Any other loader is read as it
    is, and its rows are chosen here: under a trainer (`is_shared`) it yields what is this rank's already, of which
    every rank takes its share of `limit`; else it yields everything, of which a rank takes every `world_size`-th sample
    and rank 0 the faults, so that they count once. Batches of such a loader say under `number` which samples of the
    split they hold.

    Attributes:
        num_samples: samples of this rank; None if only reading them can tell.
    """

    def __init__(
        self, loader: Any, rank: int = 0, world_size: int = 1, limit: int | None = None, is_shared: bool = False
    ) -> None:
        self.rank, self.world_size, self.limit, self.is_shared = rank, world_size, limit, is_shared
        self._is_part = hasattr(loader, "part")
        self.loader = loader.part(rank, world_size, limit) if self._is_part else loader
        self.num_samples: int | None = self.loader.num_samples if self._is_part else None

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.loader) if self._is_part else self._chosen_rows()

    @property
    def places(self) -> frozenset[int] | None:
        """Places in the split of this rank's samples, as batches say them; None if only reading them can tell."""
        if not hasattr(self.loader, "remaining"):
            return None
        return frozenset(place for part in self.loader.remaining() for place in part)

    @property
    def fingerprint(self) -> str | None:
        """Of the content that the samples come from, of data in shards; else None."""
        return getattr(getattr(self.loader, "mixture", None), "fingerprint", None)

    def _chosen_rows(self) -> Iterator[Mapping[str, Any]]:
        num_read, step = 0, self.world_size if self.is_shared else 1
        for batch in self.loader:
            size = len(batch["key"])
            start = num_read * step + (self.rank if self.is_shared else 0)
            numbers = range(start, start + size * step, step)  # of the samples, over all ranks
            rows = [row for row, number in enumerate(numbers) if self._is_ours(number)]
            part = dict(batch) if len(rows) == size else take(batch, rows)
            part["number"] = [numbers[row] for row in rows]
            yield part if self.is_shared or self.rank == 0 else {**part, "faults": []}
            num_read += size
            if self.limit is not None and num_read * step >= self.limit:  # on all ranks after the same batch
                return

    def _is_ours(self, number: int) -> bool:
        return number % self.world_size == self.rank and (self.limit is None or number < self.limit)


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
        split: "val", "test", a held-out split that the datamodule takes as its argument `test_split`, or "train", of a
            datamodule that can give it in order (`in_order`): without shuffling and augmentation.
        batch_size: samples a rank takes at once; None leaves it to the YAML (`eval_batch_size`).
        rank, world_size: which part of the split is ours.
        limit: only the first so many samples of the split, over all ranks.

    Raises:
        SettingsError: for a YAML without such a section, arguments that the datamodule does not have, or a split that
            it does not have.
    """
    section = data_section(path)
    arguments = dict(section.get("init_args") or {})
    if batch_size is not None:
        arguments["eval_batch_size"] = batch_size
    if split in SPLITS:
        datamodule = build_datamodule({**section, "init_args": arguments}, path)
    else:
        datamodule = _held_out(section, arguments, split, path)
    there, own = _splits(datamodule), split if split in SPLITS else "test"
    if own not in there:
        raise SettingsError(f"--split {split}: {path} has no split {split!r}; expected one of {', '.join(there)}")
    if rank == 0:
        prepare(datamodule, own)
    _barrier(world_size)
    loader = datamodule.in_order("train") if own == "train" else getattr(datamodule, f"{own}_dataloader")()
    if isinstance(loader, list):
        raise SettingsError(f"{path}: the data have no split {split!r}; name its folder in data.init_args.{split}")
    return SplitBatches(loader, rank, world_size, limit)


def _held_out(section: dict[str, Any], arguments: dict[str, Any], split: str, path: Path) -> L.LightningDataModule:
    """The datamodule whose test loader reads a split of another name than the three usual ones."""
    plain = build_datamodule({**section, "init_args": arguments}, path)
    if HELD_OUT not in inspect.signature(type(plain).__init__).parameters:
        there = ", ".join(_splits(plain))
        raise SettingsError(f"--split {split}: {path} has no split {split!r}; expected one of {there}")
    try:
        return build_datamodule({**section, "init_args": {**arguments, HELD_OUT: split}}, path)
    except ValueError as error:
        reason = str(root_cause(error)).removeprefix(f"data.init_args.{HELD_OUT}: ")
        raise SettingsError(f"--split {split}: {reason}") from error


def _splits(datamodule: Any) -> list[str]:
    """Names of the usual splits that a datamodule can give, as far as it says which it has."""
    folders = getattr(datamodule, "folders", dict.fromkeys(SPLITS, ""))
    can_give = SPLITS if hasattr(datamodule, "in_order") else SPLITS[1:]
    return [split for split in can_give if folders.get(split) is not None]


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
