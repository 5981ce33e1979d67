"""An index as large as LAION-400M's, and what a process needs to start on it and to resume in the middle.

python -m bench.tools.large_index FOLDER    prints seconds and megabytes as JSON
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

NUM_SHARDS, SAMPLES_PER_SHARD = 40_000, 10_000
BATCH_SIZE = 64


def make_large_index(folder: Path) -> None:
    """One shard of captions under 40,000 names (hard links), with their index."""
    from datamodules.shard_index import write_index
    from datamodules.shards import write_shards

    samples = ({"key": f"{number:09d}", "target_caption": f"caption {number}"} for number in range(SAMPLES_PER_SHARD))
    row = write_shards(samples, folder, SAMPLES_PER_SHARD).shards[0]
    rows = [replace(row, name=f"{number:05d}.tar") for number in range(NUM_SHARDS)]
    for other in rows[1:]:
        for suffix in (".tar", ".idx"):
            os.link((folder / row.name).with_suffix(suffix), (folder / other.name).with_suffix(suffix))
    write_index(folder, tuple(rows))


def measure(folder: Path) -> dict[str, Any]:
    """Start on the index and take a first batch; then again at other positions of the epoch, as after a kill."""
    from datamodules.shard_index import ShardIndex
    from datamodules.stream import ShardStream
    from datamodules.transforms import ImageTransform

    imported = _peak_megabytes()

    def first_batch(position: int | None) -> float:
        """Seconds from nothing but the files to the first batch, from the beginning or a saved position."""
        start = time.perf_counter()
        stream = ShardStream(
            ShardIndex.load(folder), global_batch_size=BATCH_SIZE, seed=0, transform=ImageTransform(16)
        )
        if position is not None:
            stream.load_state_dict({**stream.state_dict(), "samples": position})
        batch = next(iter(stream))
        assert len(batch["key"]) == BATCH_SIZE
        return time.perf_counter() - start

    started, peak = first_batch(None), _peak_megabytes()
    total = NUM_SHARDS * SAMPLES_PER_SHARD // BATCH_SIZE
    places = {share: int(share * total) * BATCH_SIZE for share in (0.001, 0.25, 0.5, 0.75, 0.999)}
    return {
        "start_s": started,
        "start_mb": peak,
        "imports_mb": imported,
        "resume_s": {str(share): first_batch(place) for share, place in places.items()},
    }


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
