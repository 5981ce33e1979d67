"""Batches from shards in a deterministic order that resumes exactly, on any number of ranks and workers.

The order of an epoch is a function of (seed, epoch, index); a global batch is a slice of it, of which each rank takes
its part. So the whole state is one number: samples consumed by the trainer, the same on every rank.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from datamodules.faults import FaultBudget
from datamodules.mixture import Mixture
from datamodules.order import rank_part, rank_parts
from datamodules.sample_dataset import UNREPLACED, SampleDataset
from datamodules.schema import AttachmentSettings, Batch
from datamodules.shard_index import ShardIndex
from datamodules.transforms import Transform
from datamodules.workers import close_loader, has_lost_worker, make_loader, raise_without_traceback

JUDGED_AFTER = 1000
"""Samples before the share of bad ones is judged for the first time, and at least between two judgements."""


class StreamError(ValueError):
    """Settings or a state that do not fit the shards; one line says which, what was expected and what was found."""


class ShardStream:
    """This rank's part of each global batch, epoch after epoch.

    Iterating yields the rest of the current epoch; the next `iter()` begins the next epoch. `len()` is the number of
    batches left in the epoch. Every rank yields equally many batches of equal size. With weights or buckets an epoch is
    only so many samples as there are; see `mixture`.

    Args:
        index: the shards, or a mixture of several indices. seed: decides order, augmentation and replacements.
        global_batch_size: samples a batch over all ranks; a multiple of `world_size`.
        rank, world_size: which part is ours. num_workers: processes that read and decode; 0 for this one.
        transform: applied to each decoded sample; a list of them, if there are buckets, one for each; None if all
            images have one size already.
        shuffle: False keeps the order of the index. drop_last: False keeps the short last global batch of an epoch;
            where it does not divide, ranks repeat samples of it (marked as `repeated`).
        max_bad_fraction: share of bad samples above which all ranks raise `DataFaultError`; judged at each epoch's end
            and every so often, once 1,000 samples (or an epoch, if that is shorter) were read.
        limit: use only the first `limit` samples of the order. restart: every `iter()` begins at the epoch's first
            batch instead of where the last one stopped, and stand-ins for bad samples are marked as `repeated`, so that
            no sample counts twice (evaluation).
        block_shards: shards whose samples are shuffled together.
        pin_memory: hand out batches in page-locked memory.
        encoded: image fields that samples with cached features need not decode. same_as: fingerprint of the data that
            these shards hold with features beside, sample for sample; a run may change between the two.
        attachments: what becomes of attachments; default as in `AttachmentSettings`.

    Raises:
        StreamError: empty shards, more ranks than samples, a batch larger than the data or not divisible by the ranks.
    """

    def __init__(
        self,
        index: ShardIndex | Mixture,
        *,
        global_batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        transform: Transform | Sequence[Transform] | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
        max_bad_fraction: float = 0.01,
        limit: int | None = None,
        restart: bool = False,
        block_shards: int = 16,
        pin_memory: bool = False,
        encoded: Collection[str] = (),
        same_as: str | None = None,
        attachments: AttachmentSettings | None = None,
    ) -> None:
        self.mixture = index if isinstance(index, Mixture) else Mixture([index])
        self.seed, self.global_batch_size = seed, global_batch_size
        self.rank, self.world_size = rank, world_size
        transforms = [transform] if transform is not None and not isinstance(transform, Sequence) else transform
        available = len(self.mixture) if limit is None else min(len(self.mixture), limit)
        _check(self.mixture, available, global_batch_size, rank, world_size, drop_last, transforms)
        self.epoch_size = available - available % global_batch_size if drop_last else available
        self.samples = 0
        """Samples consumed by the trainer since the beginning, over all ranks and epochs."""
        self._restart = restart
        self._judged_at = 0  # samples at the last judgement
        self._identity = {
            "fingerprint": same_as or self.mixture.fingerprint,
            "seed": seed,
            "global_batch_size": global_batch_size,
            "epoch_size": self.epoch_size,
            "shuffle": shuffle,
            "block_shards": block_shards,
        }
        self._budget = FaultBudget(max_bad_fraction, self.mixture.directory)
        order = partial(self.mixture.order, seed, self.epoch_size, global_batch_size, block_shards, shuffle)
        self._judged_from = min(JUDGED_AFTER, self.epoch_size)
        self._fills_up = True
        dataset = SampleDataset(self.mixture, order, seed, transforms, encoded, attachments)
        self._make_loader = partial(make_loader, dataset, num_workers=num_workers, pin_memory=pin_memory)
        self._loader = self._make_loader(_Remaining(self))

    def __len__(self) -> int:
        """Batches left in the current epoch (of a restarting stream: in every epoch)."""
        left = self.epoch_size - (0 if self._restart else self.samples % self.epoch_size)
        return -(-left // self.global_batch_size)

    def part(self, rank: int, world_size: int, limit: int | None = None) -> ShardStream:
        """What one of several ranks evaluates of the first `limit` samples of an epoch; `self` stays as it is.

        No sample is repeated, so that the ranks' numbers of samples differ by at most one. All yield equally many
        batches, no larger than those of `self`; where fewer samples than ranks are left, the last one of some is empty.
        Bad samples have the same stand-ins, and are judged, as in the whole.
        """
        part = copy.copy(self)
        part.rank, part.world_size, part._fills_up = rank, world_size, False
        part.global_batch_size = self.global_batch_size // self.world_size * world_size
        part.epoch_size = self.epoch_size if limit is None else min(limit, self.epoch_size)
        part._budget = FaultBudget(self._budget.max_bad_fraction, self.mixture.directory)
        part._loader = self._make_loader(_Remaining(part))
        return part

    @property
    def num_samples(self) -> int:
        """Samples of an epoch that are this rank's."""
        whole, left = divmod(self.epoch_size, self.global_batch_size)
        last = rank_part(0, left, self.rank, self.world_size, self._fills_up)
        return whole * (self.global_batch_size // self.world_size) + len(last)

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of a whole epoch."""
        return -(-self.epoch_size // self.global_batch_size)

    @property
    def epoch(self) -> int:
        """Number of epochs consumed."""
        return self.samples // self.epoch_size

    @property
    def fault_counts(self) -> dict[tuple[str, str], int]:
        """Bad samples met by this rank since the start or the last resume, by (reason, shard)."""
        return dict(self._budget.counts)

    def __iter__(self) -> Iterator[Batch]:
        if self._restart:
            self.samples = self._judged_at = 0
        try:
            for batch in self._loader:
                fills_up = self._repeated(len(batch["key"]))
                batch["repeated"] = fills_up | batch["repeated"] if self._restart else fills_up
                self._consume(batch)
                yield batch
        except Exception as error:
            lost = not isinstance(error, ValueError) and has_lost_worker(self._loader)
            self.close()  # or the traceback, a cycle through this frame, would keep the workers until it is collected
            if lost:
                raise StreamError(
                    f"{self.mixture.directory}: a process that reads the data was killed (out of memory?); resume with "
                    "fewer data.init_args.num_workers"
                ) from error
            raise_without_traceback(error)
            raise

    def state_dict(self) -> dict[str, Any]:
        """Samples consumed, what the order depends on, and the counts of bad samples.

        The same on every rank but for `pending`, which this rank alone has met since the last judgement.
        """
        counts = {"read": self._budget.read, "bad": self._budget.bad, "pending": self._budget.pending}
        return {"samples": self.samples, "judged_at": self._judged_at, **counts, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, on any number of ranks and workers.

        What was pending on the rank that took `state` becomes this stream's if it is rank 0: what other ranks had met
        is not known, but the share of bad samples stays what one rank saw.

        Raises:
            StreamError: the state belongs to other shards, another seed, batch size or order.
        """
        for name, ours in self._identity.items():
            if state.get(name) != ours:
                raise StreamError(
                    f"{self.mixture.directory}: cannot resume the data stream: its {name} was {state.get(name)!r} in "
                    f"the checkpoint and is {ours!r} now; restore it, or start anew with init_from"
                )
        self.samples = state["samples"]
        self._budget.read, self._budget.bad = state["read"], state["bad"]
        self._judged_at = state.get("judged_at", self.samples)  # states of earlier versions lack these two
        self._budget.pending = list(state.get("pending", (0, 0, 0))) if self.rank == 0 else [0, 0, 0]

    def close(self) -> None:
        """Stop the worker processes; iterating again starts new ones."""
        close_loader(self._loader)

    def remaining(self) -> Iterator[list[int]]:
        """Positions of this rank's part of each global batch that the current epoch still holds."""
        end = (self.epoch + 1) * self.epoch_size
        starts = range(self.samples, end, self.global_batch_size)
        return rank_parts(starts, end, self.rank, self.world_size, self._fills_up)

    def _repeated(self, size: int) -> Tensor:
        """Which of this rank's `size` samples of the next global batch repeat others, bool [size]; see `rank_part`."""
        places = self.rank * size + torch.arange(size)
        return (places >= self.epoch_size - self.samples % self.epoch_size) & self._fills_up

    def _consume(self, batch: Batch) -> None:
        before, left = self.samples, self.epoch_size - self.samples % self.epoch_size
        self.samples += min(self.global_batch_size, left)
        unreplaced = batch["key"].count(UNREPLACED)
        self._budget.add(len(batch["key"]) - unreplaced, batch["faults"], unreplaced)
        first, ends = before == 0, self.samples % self.epoch_size == 0
        if first or ends or self._is_due(self.samples - self._judged_at):
            self._judged_at = self.samples
            self._budget.judge(self.world_size, self._judged_from)

    def _is_due(self, unjudged: int) -> bool:
        """Whether so many new samples need a judgement; every rank must come to the same answer."""
        if self._budget.read < JUDGED_AFTER:
            return self._budget.read + unjudged >= JUDGED_AFTER
        return unjudged >= max(JUDGED_AFTER, 64 * self.global_batch_size)  # later on a rare sum over ranks is enough


class _Remaining:
    """The stream's remaining positions as a sampler; asked anew at the beginning of each epoch."""

    def __init__(self, stream: ShardStream) -> None:
        # No cycle from the loader's iterator to the stream, here or in what `remaining` returns: the garbage collector
        # closes the workers' queues before the iterator can tell them to end, and the program would wait for them.
        self._stream = weakref.proxy(stream)

    def __iter__(self) -> Iterator[list[int]]:
        return self._stream.remaining()


def _check(
    mixture: Mixture,
    available: int,
    batch: int,
    rank: int,
    world_size: int,
    drop_last: bool,
    transforms: Sequence[Transform] | None,
) -> None:
    where = mixture.directory
    if available < 1:
        raise StreamError(f"{where}: expected at least one sample, found none")
    if not 0 <= rank < world_size:
        raise StreamError(f"rank: expected 0 <= rank < world_size={world_size}, found {rank}")
    if available < world_size:
        raise StreamError(f"{where}: {available} samples cannot feed {world_size} ranks; use fewer ranks or more data")
    if batch < 1 or batch % world_size:
        raise StreamError(
            f"global_batch_size: expected a multiple of the number of ranks ({world_size}), found {batch}"
        )
    if drop_last and available < batch:
        raise StreamError(f"global_batch_size: expected at most the {available} samples of {where}, found {batch}")
    if not drop_last and mixture.is_endless:
        raise StreamError(f"{where}: weights and buckets are for training: expected drop_last=True, found False")
    if (found := len(transforms or ())) != mixture.num_buckets and (transforms or mixture.num_buckets > 1):
        raise StreamError(f"transform: expected one for each of {mixture.num_buckets} buckets, found {found}")
