"""The stream without epochs."""

from pathlib import Path

import pytest

from datamodules.endless import EndlessStream
from datamodules.shard_index import ShardIndex
from datamodules.shards import write_shards
from datamodules.stream import ShardStream
from datamodules.transforms import ImageTransform


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    samples = ({"key": f"k{i}", "instruction": f"do {i}"} for i in range(10))
    write_shards(samples, tmp_path / "shards", samples_per_shard=4)
    return tmp_path / "shards"


def stream(directory: Path) -> ShardStream:
    return ShardStream(ShardIndex.load(directory), global_batch_size=3, seed=0, transform=ImageTransform(8))


def test_it_ends_with_the_run_and_crosses_epochs(directory: Path) -> None:
    batches = list(EndlessStream(stream(directory), 7))
    assert len(batches) == 7
    epochs = [{key for batch in batches[i : i + 3] for key in batch["key"]} for i in (0, 3)]
    assert [len(keys) for keys in epochs] == [9, 9]


def test_resumed_it_yields_what_is_left(directory: Path) -> None:
    whole = [batch["key"] for batch in EndlessStream(stream(directory), 7)]
    first = EndlessStream(stream(directory), 7)
    iterator = iter(first)
    begun = [next(iterator)["key"] for _ in range(4)]
    second = EndlessStream(stream(directory), 7)
    second.load_state_dict(first.state_dict())
    assert len(second) == 3
    assert begun + [batch["key"] for batch in second] == whole
