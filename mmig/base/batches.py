"""Batches of the schema: moved to a device, cut, without samples that could not be read."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from datamodules.schema import Batch, take


def chosen_device(name: str) -> torch.device:
    """The device of --device; "auto" is a GPU where there is one.

    Raises:
        ValueError: no such kind of device, or none of it here.
    """
    try:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name}: cannot be used ({reason}); give auto, cpu, cuda or cuda:1") from error
    return device


def process_device(name: str) -> torch.device:
    """As `chosen_device`; under torchrun auto and cuda are the GPU of this process."""
    chosen, place = chosen_device(name), os.environ.get("LOCAL_RANK")
    if chosen == torch.device("cuda") and place is not None:
        return torch.device("cuda", int(place) % torch.cuda.device_count())
    return chosen


def move_batch(batch: Mapping[str, Any], device: torch.device | str, non_blocking: bool = False) -> dict[str, Any]:
    """The batch with its tensors on `device`; texts and metadata stay as they are."""
    return {
        name: value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def readable(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The samples of a batch without those that the stream could not read (their key is "")."""
    rows = [row for row, key in enumerate(batch["key"]) if key]
    return dict(batch) if len(rows) == len(batch["key"]) else take(batch, rows)


def micro_batches(batch: Batch, size: int | None) -> Iterator[Batch]:
    """Consecutive parts of at most `size` samples, sharing their memory; the whole batch where `size` is None."""
    total = len(batch["key"])
    if size is None or size >= total:
        yield batch
        return
    for start in range(0, total, size):
        yield cast(Batch, take(batch, slice(start, start + size)))
