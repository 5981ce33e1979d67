"""A rank's part of a stream, for evaluation: which samples, in how many batches, and that it reads no others."""

from __future__ import annotations

from itertools import chain

import pytest

from datamodules.decode import decode
from datamodules.schema import Sample
from datamodules.shards import ShardIndex, write_shards
from datamodules.stream import ShardStream
from tests.datamodules.make_samples import make_samples


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return write_shards(make_samples(44), tmp_path_factory.mktemp("parts") / "data", 7)


def _whole(index: ShardIndex, num_workers: int = 0) -> ShardStream:
    evaluation = {"shuffle": False, "drop_last": False, "restart": True}
    return ShardStream(index, global_batch_size=6, seed=7, num_workers=num_workers, **evaluation)


@pytest.mark.parametrize("limit", [1, 2, 5, 20, 44, None])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_parts_for_evaluation_are_the_first_samples_once_in_equally_many_batches(
    index: ShardIndex, world_size: int, limit: int | None
) -> None:
    whole = _whole(index)
    parts = [whole.part(rank, world_size, limit) for rank in range(world_size)]
    found = [[batch["position"].tolist() for batch in part] for part in parts]
    assert [[*chain(*batch)] for batch in zip(*found, strict=True)] == [
        [*range(limit or 44)][start : start + 6 * world_size] for start in range(0, limit or 44, 6 * world_size)
    ]
    sizes = [sum(map(len, batches)) for batches in found]
    assert sizes == [part.num_samples for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert len(list(whole)) == 8  # it is still the whole


def test_each_rank_decodes_its_part_alone(index: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def counted(key: str, *others: object, **settings: object) -> Sample:
        decoded.append(key)
        return decode(key, *others, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("datamodules.sample_dataset.decode", counted)
    whole, found = _whole(index), []
    for rank in range(3):
        decoded.clear()
        keys = [key for batch in whole.part(rank, 3, 20) for key in batch["key"]]
        assert decoded == keys
        found += keys
    assert sorted(found) == [f"{number:06d}" for number in range(20)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_part_can_be_read_again_by_any_number_of_workers(index: ShardIndex, workers: int) -> None:
    part = _whole(index, workers).part(1, 3, 19)
    found = [[batch["key"] for batch in part] for _ in range(2)]
    assert found[0] == found[1] == [[f"{number:06d}" for number in range(6, 12)], []]
