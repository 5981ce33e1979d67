"""Positions -> a batch: the stateless part of the stream, which worker processes hold a copy of.

A bad sample is replaced by another one of the same source and bucket, chosen by the position alone: every rank and run
sees the same batches. The batch says under `repeated` which samples are such stand-ins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import torch
from torch.utils.data import Dataset

from datamodules.decode import decode
from datamodules.faults import BadSample, DataFaultError
from datamodules.mixture import Mixture
from datamodules.order import mix
from datamodules.portions import Order
from datamodules.schema import (
    AttachmentSettings,
    Batch,
    Fault,
    Sample,
    SchemaError,
    collate,
    with_attachment_tensors,
)
from datamodules.shard_reader import ShardReader
from datamodules.transforms import Transform

UNREPLACED = ""
"""Key of the empty sample that stands where neither the sample nor any replacement could be read."""
_ATTEMPTS = 16
_REPLACEMENT = 101  # what a draw is for; apart from those of `transforms`, under the same key


class SampleDataset(Dataset[Batch]):
    """Makes the batch of any list of positions: `dataset[[p, q, ...]]`. Holds what workers need, and no state."""

    def __init__(
        self,
        mixture: Mixture,
        order: Callable[[], Order],
        seed: int,
        transforms: Sequence[Transform] | None,
        encoded: Collection[str] = (),
        attachments: AttachmentSettings | None = None,
    ) -> None:
        """`order` makes the order of the mixture, in each process anew; `transforms` has one for each bucket."""
        self._mixture, self._make_order, self._seed, self._transforms = mixture, order, seed, transforms
        self._encoded, self._attachments = encoded, attachments or AttachmentSettings()
        keep_open = max(16, 64 // len(mixture.sources))
        self._readers = [ShardReader(source.index, keep_open) for source in mixture.sources]

    def __getitem__(self, positions: Sequence[int]) -> Batch:
        if not positions:  # this rank has no part in the last batch of an evaluation
            none = torch.zeros(0, dtype=torch.int64)
            return {"key": [], "position": none, "repeated": none > 0, "faults": []}
        faults: list[Fault] = []
        transform = self._transforms and self._transforms[self._order.bucket(positions[0])]
        samples, repeated = zip(*(self._sample(position, transform, faults) for position in positions), strict=True)
        size = transform and transform.size
        attachment_size = self._attachments.attachment_size
        batch = collate(samples, positions=positions, size=size, attachment_size=attachment_size, faults=faults)
        batch["repeated"] = torch.tensor(repeated)
        return batch

    def _sample(self, position: int, transform: Transform | None, faults: list[Fault]) -> tuple[Sample, bool]:
        """The sample at a position, or the first good one of a list of replacements that depends on the position.

        Returns:
            The sample, and whether it is a replacement.
        """
        for attempt in range(_ATTEMPTS):
            draw = mix(self._seed, position, _REPLACEMENT, attempt) if attempt else None
            place = self._order.locate(position, draw)
            reader, key = self._readers[place.source], ""  # not known where the member index cannot be fetched
            try:
                key = reader.key(place.shard, place.row)
                files, least_size = reader.read(place.shard, place.row), transform and transform.least_size
                sample = decode(key, files, self._encoded, least_size, with_answers=False)
                seen = transform(sample, self._seed, position) if transform else sample
                return with_attachment_tensors(seen, self._attachments), attempt > 0
            except (BadSample, SchemaError) as bad:
                name = self._mixture.shard_name(place)
                faults.append({"reason": bad.reason, "shard": name, "key": key, "detail": str(bad)})
        if transform is None:
            raise DataFaultError(f"{self._mixture.directory}: {_ATTEMPTS} bad samples in a row; the last: {faults[-1]}")
        return {"key": UNREPLACED}, True  # no field: weight 0 in every loss, until all ranks stop together

    @cached_property
    def _order(self) -> Order:
        return self._make_order()
