"""Positions -> a batch: the stateless part of the stream, which worker processes hold a copy of.

A bad sample is replaced by another one, chosen by the position alone: every rank and run sees the same batches. The
batch says under `repeated` which samples are such stand-ins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from datamodules.decode import ShardReader, decode
from datamodules.faults import BadSample, DataFaultError
from datamodules.order import EpochOrder, mix
from datamodules.schema import Batch, Fault, Sample, collate
from datamodules.shard_index import ShardIndex
from datamodules.transforms import Transform

UNREPLACED = ""
"""Key of the empty sample that stands where neither the sample nor any replacement could be read."""
_ATTEMPTS = 16
_REPLACEMENT = 101  # what a draw is for; apart from those of `transforms`, under the same key


class SampleDataset(Dataset[Batch]):
    """Makes the batch of any list of positions: `dataset[[p, q, ...]]`. Holds what workers need, and no state."""

    def __init__(
        self,
        index: ShardIndex,
        seed: int,
        epoch_size: int,
        block_shards: int,
        shuffle: bool,
        transform: Transform | None,
    ) -> None:
        self._index = index
        self._seed, self._epoch_size, self._block_shards, self._shuffle = seed, epoch_size, block_shards, shuffle
        self._transform = transform
        self._reader = ShardReader(index)
        self._orders: dict[int, EpochOrder] = {}

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        faults: list[Fault] = []
        samples, repeated = zip(*(self._sample(position, faults) for position in positions), strict=True)
        batch = collate(samples, positions=positions, size=self._transform and self._transform.size, faults=faults)
        batch["repeated"] = torch.tensor(repeated)
        return batch

    def _sample(self, position: int, faults: list[Fault]) -> tuple[Sample, bool]:
        """The sample at a position, or the first good one of a list of replacements that depends on the position.

        Returns:
            The sample, and whether it is a replacement.
        """
        epoch, place = divmod(position, self._epoch_size)
        for attempt in range(_ATTEMPTS):
            if attempt:
                place = mix(self._seed, position, _REPLACEMENT, attempt) % self._epoch_size
            shard, row = self._order(epoch).locate(place)
            try:
                sample = decode(self._reader.key(shard, row), self._reader.read(shard, row))
                return (self._transform(sample, self._seed, position) if self._transform else sample), attempt > 0
            except BadSample as bad:
                name, key = self._index.shards[shard].name, self._reader.key(shard, row)
                faults.append({"reason": bad.reason, "shard": name, "key": key, "detail": bad.detail})
        if self._transform is None:
            raise DataFaultError(f"{self._index.directory}: {_ATTEMPTS} bad samples in a row; the last: {faults[-1]}")
        return {"key": UNREPLACED}, True  # no field: weight 0 in every loss, until all ranks stop together

    def _order(self, epoch: int) -> EpochOrder:
        if epoch not in self._orders:
            counts = [shard.count for shard in self._index.shards]
            self._orders = {epoch: EpochOrder(counts, self._seed, epoch, self._block_shards, self._shuffle)}
        return self._orders[epoch]
