"""A trainer in miniature, for a process of its own: one line of JSON a batch, the state saved after each."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from datamodules.shards import ShardIndex
from datamodules.stream import ShardStream
from datamodules.transforms import ImageTransform


def consume(
    folder: Path, out: Path, count: int, rank: int = 0, world_size: int = 1, workers: int = 0, dies_at: int = -1
) -> None:
    """Consume `count` batches, going on from `out`.state if that exists; kill this process before batch `dies_at`."""
    stream = ShardStream(
        ShardIndex.load(folder),
        global_batch_size=6,
        seed=7,
        rank=rank,
        world_size=world_size,
        num_workers=workers,
        transform=ImageTransform(12, 20, crop="random", flip=True),
        block_shards=2,
    )
    state = out.with_suffix(".state")
    if state.exists():
        stream.load_state_dict(json.loads(state.read_text()))
    done = 0
    with out.open("w") as file:
        while done < count:
            for batch in stream:
                if done == dies_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                pixels = batch["target"].double().sum().item()
                line = {"key": batch["key"], "position": batch["position"].tolist(), "pixels": pixels}
                file.write(json.dumps(line) + "\n")
                file.flush()
                temporary = state.with_suffix(".new")
                temporary.write_text(json.dumps(stream.state_dict()))
                os.replace(temporary, state)
                done += 1
                if done == count:
                    break
