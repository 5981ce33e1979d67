"""Bad samples: why a sample cannot be used, how many there are, and when there are too many.

Reading raises `BadSample`; the stream replaces the sample and counts; `FaultBudget` stops all ranks together.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import torch
import torch.distributed as dist

from datamodules.sample import Fault

REASONS: dict[str, str] = {
    "truncated": "the tar ends before the member does",
    "missing": "the shard is not there or cannot be read",
    "stalled": "the storage gave no answer in time, attempt after attempt",
    "server": "the storage refused, or answered with an error attempt after attempt",
    "connection": "the connection to the storage broke or could not be made, attempt after attempt",
    "checksum": "the member's bytes are not those that were indexed",
    "repeated": "a member of the sample comes twice",
    "json": "the sample's JSON cannot be parsed, or is larger than any",
    "text": "a text that is no UTF-8, or longer than any",
    "field": "a field has the wrong type, or there is neither text nor image",
    "attachment": "an attachment that is missing, one too many, or of a wrong kind, role or word",
    "empty": "a file, image or sound of zero size",
    "format": "an image that is neither PNG, JPEG nor WebP, a sound that is neither WAV, FLAC nor Ogg",
    "image": "an image that cannot be decoded",
    "audio": "a sound that cannot be decoded, or of a rate or number of channels that none has",
    "long": "a sound longer than `audio_seconds`",
    "bomb": "an image of more pixels than any sane picture has",
    "features": "cached features that cannot be read",
    "mask": "a mask that says nothing: dark all over though not black, or a coloured picture with transparent parts",
    "size": "images and masks of one sample have different shapes",
}
LOST = ("missing", "stalled", "server", "connection")
"""Reasons that lie with the storage, and may be gone when the sample is read again."""
_log = logging.getLogger(__name__)


class BadSample(Exception):  # noqa: N818 - raised for data, not for a mistake of ours
    """One sample that cannot be used; `reason` is a key of `REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class DataFaultError(ValueError):
    """Too many bad samples; the message says how many, why and in which shards."""


class FaultBudget:
    """Counts bad samples of this rank, and judges their share over all ranks.

    Attributes:
        read, bad: samples read and found bad by all ranks up to the last judgement (the same on every rank).
        pending: samples of this rank since then: read, bad, and bad without a replacement.
        counts: bad samples that this rank met, by (reason, shard).
    """

    def __init__(self, max_bad_fraction: float, source: str) -> None:
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction: expected a number in [0, 1], found {max_bad_fraction}")
        self.max_bad_fraction = max_bad_fraction
        self.read = 0
        self.bad = 0
        self.counts: Counter[tuple[str, str]] = Counter()
        self._source = source
        self.pending = [0, 0, 0]

    def add(self, good: int, faults: Sequence[Fault], unreplaced: int) -> None:
        """Count one batch of this rank; the first fault of each kind in each shard is logged."""
        found = good + len(faults), len(faults), unreplaced
        self.pending = [n + m for n, m in zip(self.pending, found, strict=True)]
        for fault in faults:
            place = (fault["reason"], fault["shard"])
            if place not in self.counts:
                _log.warning("%s, sample %r: %s; skipped", fault["shard"], fault["key"], fault["detail"])
            self.counts[place] += 1

    def judge(self, world_size: int, least: int) -> None:
        """Add up all ranks; every rank must call this at the same batch.

        Args:
            world_size: number of ranks of the stream; they are added up if torch.distributed has as many.
            least: samples read by all ranks below which their share of bad ones says too little.

        Raises:
            DataFaultError: on all ranks alike, when the share of bad samples exceeds `max_bad_fraction`, or when no
                replacement could be found for one, however few were read.
        """
        together = world_size > 1 and dist.is_initialized() and dist.get_world_size() == world_size
        read, bad, unreplaced = _sum_over_ranks(self.pending) if together else self.pending
        self.read, self.bad, self.pending = self.read + read, self.bad + bad, [0, 0, 0]
        too_many = self.bad > self.max_bad_fraction * self.read
        enough = self.read >= (least if together else least // world_size)
        if unreplaced or (enough and too_many):
            counts = _counts_of_ranks(self.counts, world_size) if together else self.counts
            raise DataFaultError(self._message(unreplaced, counts))

    def _message(self, unreplaced: int, counts: Counter[tuple[str, str]]) -> str:
        worst = ", ".join(f"{reason} {count} in {shard}" for (reason, shard), count in counts.most_common(5))
        if unreplaced:
            finding = f"no good sample could be found in the place of {unreplaced} bad ones"
        else:
            finding = (
                f"{self.bad} of {self.read} samples read are bad, more than max_bad_fraction="
                f"{self.max_bad_fraction:g} allows"
            )
        return (
            f"{self._source}: {finding} (since the start or the last resume: {worst}); "
            "see `python -m datamodules.shards verify DIR`"
        )


def _sum_over_ranks(numbers: list[int]) -> list[int]:
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    total = torch.tensor(numbers, dtype=torch.int64, device=device)
    dist.all_reduce(total)
    return total.tolist()


def _counts_of_ranks(counts: Counter[tuple[str, str]], world_size: int) -> Counter[tuple[str, str]]:
    gathered: list[Counter[tuple[str, str]]] = [Counter()] * world_size
    dist.all_gather_object(gathered, counts)
    return sum(gathered, Counter())
