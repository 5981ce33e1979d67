"""kill -9 at random moments: the stream goes on exactly with other ranks and workers.

A miniature trainer of real processes (gloo between the ranks, a checkpoint every third batch) is killed at a random
moment, again and again, and each time continued from its last checkpoint on another number of ranks, with 0 or 2
workers each. On the surviving trajectory every global batch (keys, positions, the bytes of every image) is that of an
epoch that nobody interrupted; so is what was done and lost between checkpoint and kill.
  index    one folder of shards
  mixture  two folders by weights, one of them filtered, in buckets of three shapes
"""

import copy
import hashlib
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from datamodules.buckets import Buckets
from datamodules.schema import Batch, Sample
from datamodules.shards import write_shards
from datamodules.sources import Source, open_sources
from datamodules.stream import ShardStream
from datamodules.transforms import ImageTransform

KINDS = ("index", "mixture")
GLOBAL_BATCH, RESOLUTION, EVERY = 6, 16, 3
CREWS = ((1, 0), (2, 2), (3, 0), (1, 2), (2, 0), (3, 2))
"""(ranks, workers a rank) of one life after the other."""
Line = dict[str, list]
"""Keys, positions and digests of the images of one rank's part of a global batch."""


def write_data(folder: Path) -> None:
    """Two folders of small shards with pictures of several shapes."""
    draws = np.random.default_rng(0)

    def samples(name: str, count: int) -> Iterator[Sample]:
        for number in range(count):
            size = ((16, 16), (24, 12), (12, 24))[number % 3]
            image = Image.fromarray(draws.integers(0, 256, (*size, 3), np.uint8))
            kind = "add" if number % 2 else "remove"
            yield {"key": f"{name}{number:03d}", "target": image, "instruction": f"edit {number}", "edit_type": kind}

    for name, count in (("a", 100), ("b", 45)):
        write_shards(samples(name, count), folder / name, 8)


def open_stream(kind: str, folder: Path, rank: int = 0, world_size: int = 1, workers: int = 0) -> ShardStream:
    """This rank's stream, augmented so that pixels depend on the position."""
    sizes = Buckets(4, 2.0).sizes(RESOLUTION) if kind == "mixture" else (None,)
    sources = [Source(str(folder / "a"))]
    if kind == "mixture":
        sources = [Source(str(folder / "a"), weight=2.5), Source(str(folder / "b"), weight=1, edit_types=["add"])]
    return ShardStream(
        open_sources(sources, sizes=sizes if kind == "mixture" else None),
        global_batch_size=GLOBAL_BATCH,
        seed=7,
        rank=rank,
        world_size=world_size,
        num_workers=workers,
        transform=[ImageTransform(RESOLUTION, 20, crop="random", flip=True, shape=shape) for shape in sizes],
        block_shards=3,
    )


def describe(batch: Batch) -> Line:
    """What must be the same in every run."""
    digests = [hashlib.blake2b(image.numpy().tobytes(), digest_size=8).hexdigest() for image in batch["target"]]
    return {"key": batch["key"], "position": batch["position"].tolist(), "image": digests}


def train(kind: str, folder: Path, life: Path, rank: int, crew: tuple[int, int], until: int, told: int) -> None:
    """One rank: consume batches up to number `until`, a line each; `told` is a pipe that gets a byte a batch."""
    world_size, workers = crew
    with (life / f"{rank}.errors").open("w") as errors:
        os.dup2(errors.fileno(), 2)  # what workers say when their rank is killed under them
    if world_size > 1:
        store = f"file://{life / 'store'}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    stream = open_stream(kind, folder, rank, world_size, workers)
    state = life.parent / "state.json"
    if state.exists():
        stream.load_state_dict(json.loads(state.read_text()))
    with (life / f"{rank}.jsonl").open("w") as file:
        while stream.samples < until * GLOBAL_BATCH:
            for batch in stream:
                file.write(json.dumps(describe(batch)) + "\n")
                file.flush()
                if world_size > 1:
                    dist.all_reduce(torch.ones(1))  # as the gradients are: no rank is ahead of another
                if rank == 0 and stream.samples // GLOBAL_BATCH % EVERY == 0:
                    (life / "state.new").write_text(json.dumps(stream.state_dict()))
                    os.replace(life / "state.new", state)
                os.write(told, b".")
                if stream.samples >= until * GLOBAL_BATCH:
                    break
    stream.close()


@dataclass
class Life:
    """What one crew did from one start to its end: the number of its first batch, and its lines of each rank."""

    first: int
    ranks: list[list[Line]]

    def batch(self, number: int) -> Line:
        """The global batch `number`, put together from all ranks."""
        parts = [lines[number - self.first] for lines in self.ranks]
        return {name: [value for part in parts for value in part[name]] for name in parts[0]}

    def batches(self) -> range:
        """Numbers of the batches that every rank has written."""
        return range(self.first, self.first + min(map(len, self.ranks)))


def live(kind: str, folder: Path, run: Path, number: int, kill_after: int | None, victim: int) -> Life:
    """Start crew `number` from the last checkpoint; kill all of it once the victim has done `kill_after` batches.

    Without `kill_after` it goes on for a dozen batches and must end by itself.
    """
    crew, life = CREWS[number % len(CREWS)], run / f"{number:03d}"
    life.mkdir(parents=True)
    first = consumed(run) // GLOBAL_BATCH
    until = first + 12 if kill_after is None else 10**9
    pipes = [os.pipe() for _ in range(crew[0])]
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=train, args=(kind, folder, life, rank, crew, until, pipe[1]))
        for rank, pipe in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, write in pipes:
        os.close(write)
    try:
        for _ in range(kill_after or 0):
            if not os.read(pipes[victim % crew[0]][0], 1):
                raise RuntimeError(f"{life}: a rank ended by itself: {_errors(life)}")
        if kill_after is None:
            for process in processes:
                process.join(300)
    finally:
        for process in processes:
            process.kill()  # nothing, where it has ended
        for process in processes:
            process.join()
        for read, _ in pipes:
            os.close(read)
    codes = [process.exitcode for process in processes]
    died = -signal.SIGKILL in codes and 0 not in codes  # some may have seen others die before their own turn came
    if not (died if kill_after is not None else codes == [0] * crew[0]):
        raise RuntimeError(f"{life}: exit codes {codes}: {_errors(life)}")
    return Life(first, [_lines(life / f"{rank}.jsonl") for rank in range(crew[0])])


def consumed(run: Path) -> int:
    """Samples consumed according to the last checkpoint."""
    state = run / "state.json"
    return json.loads(state.read_text())["samples"] if state.exists() else 0


def survive(kind: str, folder: Path, run: Path, kills: int, seed: int) -> list[Life]:
    """One run through `kills` deaths to its end."""
    draws = random.Random(seed)
    lives = [live(kind, folder, run, number, draws.randint(0, 9), draws.randrange(6)) for number in range(kills)]
    return [*lives, live(kind, folder, run, kills, None, 0)]


def compare(kind: str, folder: Path, lives: list[Life]) -> tuple[list[bool], list[bool]]:
    """Whether each global batch is that of an uninterrupted run: of the surviving trajectory, and of what was lost."""
    stream, whole = open_stream(kind, folder), list[Line]()
    end = lives[-1].batches().stop
    while len(whole) < max(end, *(life.batches().stop for life in lives)):
        whole += [describe(batch) for batch in stream]
    survived, lost = [], []
    for life, after in zip(lives, [*(life.first for life in lives[1:]), end], strict=True):
        survived += [life.batch(number) == whole[number] for number in range(life.first, after)]
        lost += [life.batch(number) == whole[number] for number in life.batches() if number >= after]
    return survived, lost


def _errors(life: Path) -> str:
    """The last line that each rank wrote to its standard error."""
    return "; ".join(path.read_text().strip().rpartition("\n")[2] for path in sorted(life.glob("*.errors")))


def _lines(path: Path) -> list[Line]:
    """The whole lines of a file; the last one may be cut by the kill, and a rank may have died before its first."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_goes_on_exactly_on_other_ranks_and_workers(kind: str, kills: int, tmp_path: Path) -> None:
    write_data(tmp_path)
    lives = survive(kind, tmp_path, tmp_path / "run", kills, seed=KINDS.index(kind))
    assert [len(life.ranks) for life in lives[:4]] == [ranks for ranks, _ in CREWS[:4]]
    survived, lost = compare(kind, tmp_path, lives)
    assert all(survived) and all(lost) and len(survived) >= 12
    broken = copy.deepcopy(lives)
    last = broken[-1].ranks[0]
    last[3], last[4] = last[4], last[3]
    assert compare(kind, tmp_path, broken)[0].count(False) == 2
