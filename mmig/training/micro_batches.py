"""Cutting a batch into micro-batches."""

from collections.abc import Iterator
from typing import cast

from torch import Tensor

from datamodules.schema import Batch


def micro_batches(batch: Batch, size: int | None) -> Iterator[Batch]:
    """Yield consecutive parts of at most `size` samples; the whole batch where `size` is None.

    Tensors and lists with one entry a sample are sliced, everything else goes along whole.
    """
    total = len(batch["key"])
    if size is None or size >= total:
        yield batch
        return
    for start in range(0, total, size):
        part = {
            name: value[start : start + size] if isinstance(value, Tensor | list) and len(value) == total else value
            for name, value in batch.items()
        }
        yield cast(Batch, part)
