"""Sources in the LightningDataModule: parts and limits, mixtures in buckets, positions in checkpoints."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from datamodules.buckets import Buckets
from datamodules.shard_data import ShardData
from datamodules.sources import Source


def test_a_part_is_streamed_and_nothing_else(folders: Path) -> None:
    data = ShardData(
        train=[Source(str(folders / "edits/train"), edit_types=["add"])], global_batch_size=5, resolution=16
    )
    batches = list(data.train_dataloader())
    assert {kind for batch in batches for kind in batch["edit_type"]} == {"add"}
    assert len({key for batch in batches for key in batch["key"]}) == 20


@pytest.mark.parametrize(
    ("limit", "expected"), [(1, [1, 0]), (7, [6, 1]), (18, [15, 3]), (72, [60, 12]), (99, [60, 12])]
)
def test_a_limit_is_shared_by_the_sources_as_their_sizes_are(folders: Path, limit: int, expected: list[int]) -> None:
    sources = [Source(str(folders / "edits/train")), Source(str(folders / "others"))]
    data = ShardData(val=sources, limit_val=limit, eval_batch_size=4, resolution=16)
    keys = [*chain(*(batch["key"] for batch in data.val_dataloader()))]
    first, second = expected
    assert keys == [f"{n:06d}" for n in (*range(first), *range(100, 100 + second))]


def test_a_limit_counts_chosen_samples_alone(folders: Path) -> None:
    sources = [Source(str(folders / "edits/train"), edit_types=["remove"]), Source(str(folders / "others"))]
    data = ShardData(test=sources, limit_test=8, eval_batch_size=4, resolution=16)
    assert [*chain(*(batch["key"] for batch in data.test_dataloader()))] == [
        *(f"{n:06d}" for n in (1, 4, 7, 10, 13)),
        *(f"{n:06d}" for n in (100, 101, 102)),
    ]


@pytest.fixture
def mixed(folders: Path) -> ShardData:
    sources = [
        Source(str(folders / "edits"), split="train", weight=3, where="number >= 10"),
        Source(str(folders / "others"), weight=1, edit_types=["add", "remove"]),
    ]
    val = [
        Source(str(folders / "edits/train"), where="number < 10", weight=5),
        Source(str(folders / "others"), weight=1),
    ]
    return ShardData(
        train=sources,
        val=val,
        global_batch_size=4,
        eval_batch_size=4,
        resolution=16,
        buckets=Buckets(4, 2.0),
        flip=True,
    )


def test_a_mixture_with_buckets_trains_on_several_shapes_and_validates_on_the_square(mixed: ShardData) -> None:
    mixed.prepare_data()
    mixed.setup("fit")
    stream = mixed.train_dataloader()
    batches = [batch for _ in range(3) for batch in stream]
    shapes = {tuple(batch["source"].shape[2:]) for batch in batches}
    assert shapes == {(16, 16), (12, 20), (20, 12)}
    keys = Counter(key[:4] for batch in batches for key in batch["key"])
    assert abs(keys["0001"] / keys.total() - 0.25) < 0.03
    assert min(key for batch in batches for key in batch["key"]) == "000010"
    validated = [*chain(*(batch["key"] for batch in mixed.val_dataloader()))]
    assert validated == [f"{n:06d}" for n in (*range(10), *range(100, 112))]
    assert {tuple(batch["target"].shape[2:]) for batch in mixed.val_dataloader()} == {(16, 16)}


def test_the_position_of_a_mixture_travels_in_checkpoints(folders: Path, mixed: ShardData) -> None:
    whole = [batch["key"] for batch, _ in zip(mixed.train_dataloader(), range(9), strict=False)]
    first, second = (
        ShardData(train=mixed.folders["train"], global_batch_size=4, resolution=16, buckets=Buckets(4, 2.0))
        for _ in "ab"
    )
    begun = [batch["key"] for batch, _ in zip(first.train_dataloader(), range(5), strict=False)]
    second.load_state_dict(first.state_dict())
    assert begun == whole[:5]
    rest = [batch["key"] for batch, _ in zip(second.train_dataloader(), range(3), strict=False)]
    assert rest == whole[6:9]  # `zip` took one more batch from the first stream before it stopped


def test_features_of_a_mixture_are_refused(folders: Path) -> None:
    data = ShardData(train=[Source(str(folders / "others"), weight=1)], features=str(folders), global_batch_size=2)
    with pytest.raises(ValueError, match=r"data\.init_args\.features: expected one whole folder"):
        data.train_dataloader()


def test_a_list_that_was_not_understood_is_named(folders: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.init_args\.train: expected a folder of shards, found \[\{pth: x\}\]"):
        ShardData(train="[{pth: x}]").setup("fit")
