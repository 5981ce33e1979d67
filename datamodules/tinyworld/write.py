"""Splits of the small world as shards on disk. `python -m datamodules.tinyworld` is its command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.card import Card, totals, write_card
from datamodules.tinyworld.contents import ContentWorld
from datamodules.tinyworld.png import png
from datamodules.tinyworld.sample import Sample, draw_from, with_images
from datamodules.tinyworld.splits import edit_types, split_rules
from datamodules.tinyworld.world import DENOISER_KINDS, World

if TYPE_CHECKING:
    from datamodules.shards import ShardIndex

WORLD_VERSION = 2  # counts up whenever any sample changes, so that older shards are not taken for newer ones
CHUNK = 64  # samples that a worker makes at once
SAMPLES_PER_SHARD = 1000


def folder_name(split: str, count: int, world: World) -> str:
    """A folder name that says everything its shards depend on."""
    level = "plain-" if world.plain else ""
    kinds = "" if world.kinds == DENOISER_KINDS else f"-{'-'.join(world.kinds)}"
    texts = "" if world.pictures else "-texts"
    level += "centred-" if world.centred else ""
    level += f"objects{world.objects}-" if world.objects else ""
    return f"{level}{_drawn(split, count, world)}{kinds}{texts}-v{WORLD_VERSION}"


def old_folder_name(split: str, count: int, world: World) -> str | None:
    """What the folder was called before there were levels and splits by hash; None for what there was not then."""
    old = not world.plain and world.kinds == DENOISER_KINDS and world.pictures
    return f"{_drawn(split, count, world)}-v1" if old else None


def _drawn(split: str, count: int, world: World) -> str:
    without = "" if world.has_photographs or world.plain else "-no-photographs"
    return f"{split}-{count}-seed{world.seed}{without}"


def generate(split: str, count: int, world: World | ContentWorld, workers: int = 0) -> Iterator[Sample]:
    """Samples 0..count-1 of a split in order, images as PNG bytes; the same for every number of worker processes.

    Raises ValueError on an unknown split, a count below 1, or a split that the world does not have.
    """
    if isinstance(world, ContentWorld):
        world.check(split)
    else:
        split_rules(split, world)
        edit_types(split, world)
    if count < 1:
        raise ValueError(f"count: expected at least 1 sample, found {count}")
    make_chunk = partial(_make_chunk, split, count, world)
    starts = range(0, count, CHUNK)
    if workers < 1:
        for start in starts:
            yield from make_chunk(start)
        return
    with get_context("spawn").Pool(workers) as pool:
        for chunk in pool.imap(make_chunk, starts):
            yield from chunk


def _make_chunk(split: str, count: int, world: World | ContentWorld, start: int) -> list[Sample]:
    draw = world.draw if isinstance(world, ContentWorld) else partial(draw_from, world)
    return [with_images(draw(split, i), png) for i in range(start, min(start + CHUNK, count))]


def write_split(
    directory: Path,
    split: str,
    count: int,
    world: World | ContentWorld,
    workers: int = 0,
    each: Callable[[], object] | None = None,
) -> ShardIndex:
    """Write a split as shards into `directory`, byte for byte the same each time. `each` is called after every sample.

    Raises ValueError as `generate` does, and ShardError where the folder holds shards already.
    """
    from datamodules.shards import write_shards  # imports torch, which the drawing processes need not load

    def counted() -> Iterator[Sample]:
        for sample in generate(split, count, world, workers):
            yield sample
            if each is not None:
                each()

    index = write_shards(counted(), directory, SAMPLES_PER_SHARD)
    write_card(directory, card_of(index, split, world))
    return index


def card_of(index: ShardIndex, split: str, world: World | ContentWorld) -> Card:
    """The card of a split."""
    if isinstance(world, ContentWorld):
        options, photographs = ["--world", world.name], False
    else:
        options, photographs = ["--level", world.level, "--kinds", *world.kinds], world.has_photographs
        options += ["--centred"] * world.centred
        options += ["--objects", str(world.objects)] if world.objects else []
        options += [] if world.photographs else ["--no-photographs"]
    where = ["--split", split, "--count", str(len(index)), "--seed", str(world.seed), "--out", "OUT"]
    drawn = "Drawn by a program: the small world, in which every edit has a known right answer"
    return Card(
        title=f"The small world: {split}",
        source=f"{drawn}; some pictures are or show photographs of scikit-image." if photographs else f"{drawn}.",
        command=["python", "-m", "datamodules.tinyworld", *options, *where],
        counts={"": totals(index.shards)},
    )
