"""Splits of the small world as shards on disk. `python -m datamodules.tinyworld` is its command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.tinyworld.png import png
from datamodules.tinyworld.sample import Sample, draw_sample, split_rules, with_images

if TYPE_CHECKING:
    from datamodules.shards import ShardIndex

WORLD_VERSION = 1  # counts up whenever any sample changes, so that older shards are not taken for newer ones
CHUNK = 64  # samples that a worker makes at once
SAMPLES_PER_SHARD = 1000


def folder_name(split: str, count: int, seed: int, photographs: bool) -> str:
    """A folder name that says everything its shards depend on."""
    return f"{split}-{count}-seed{seed}{'' if photographs else '-no-photographs'}-v{WORLD_VERSION}"


def generate(split: str, count: int, seed: int, photographs: bool = True, workers: int = 0) -> Iterator[Sample]:
    """Samples 0..count-1 of a split in order, images as PNG bytes; the same for every number of worker processes.

    Raises ValueError on an unknown split, a count below 1, or a split that needs photographs in a world without.
    """
    split_rules(split, photographs)
    if count < 1:
        raise ValueError(f"count: expected at least 1 sample, found {count}")
    make_chunk = partial(_make_chunk, split, count, seed, photographs)
    starts = range(0, count, CHUNK)
    if workers < 1:
        for start in starts:
            yield from make_chunk(start)
        return
    with get_context("spawn").Pool(workers) as pool:
        for chunk in pool.imap(make_chunk, starts):
            yield from chunk


def _make_chunk(split: str, count: int, seed: int, photographs: bool, start: int) -> list[Sample]:
    return [with_images(draw_sample(seed, split, i, photographs), png) for i in range(start, min(start + CHUNK, count))]


def write_split(
    directory: Path,
    split: str,
    count: int,
    seed: int,
    photographs: bool = True,
    workers: int = 0,
    each: Callable[[], object] | None = None,
) -> ShardIndex:
    """Write a split as shards into `directory`, byte for byte the same each time. `each` is called after every sample.

    Raises ValueError as `generate` does, and ShardError where the folder holds shards already.
    """
    from datamodules.shards import write_shards  # imports torch, which the drawing processes need not load

    def counted() -> Iterator[Sample]:
        for sample in generate(split, count, seed, photographs, workers):
            yield sample
            if each is not None:
                each()

    return write_shards(counted(), directory, SAMPLES_PER_SHARD)
