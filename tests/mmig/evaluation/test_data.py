"""Splits of data as evaluate.py names them: which there are, and those that nothing has written or trained on yet."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from datamodules.shards import write_shards
from mmig.evaluation.data import split_batches
from mmig.evaluation.settings import SettingsError
from tests.mmig.evaluation.support import random_samples, write_data

NUM_TRAIN, NUM_VAL = 7, 3


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with a training split that would be shuffled and mirrored, a validation split, and no test split."""
    folder = tmp_path_factory.mktemp("data")
    samples = random_samples(NUM_TRAIN + NUM_VAL)
    write_shards(samples[NUM_TRAIN:], folder / "val", samples_per_shard=3)
    return write_data(folder, samples[:NUM_TRAIN], "train", val=str(folder / "val"), global_batch_size=2, flip=True)


def write_config(path: Path, class_path: str, **arguments: Any) -> Path:
    path.write_text(yaml.safe_dump({"data": {"class_path": class_path, "init_args": arguments}}))
    return path


@pytest.fixture
def own_table(tmp_path: Path) -> Path:
    """A table of one's own that nothing has converted."""
    with (tmp_path / "edits.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("source", "target", "instruction", "split"))
        for number, split in enumerate(("train", "train", "val")):
            for part in "ab":
                Image.new("RGB", (32, 32), (40 * number, 0, 200)).save(tmp_path / f"{number}{part}.png")
            rows.writerow((f"{number}a.png", f"{number}b.png", "make it red", split))
    settings = {"source": str(tmp_path), "table": str(tmp_path / "edits.csv"), "root": str(tmp_path / "own")}
    return write_config(tmp_path / "own.yaml", "datamodules.folder.FolderData", resolution=32, **settings)


def keys(path: Path, split: str, **options: Any) -> list[str]:
    return [key for batch in split_batches(path, split, **options) for key in batch["key"]]


def test_training_samples_come_in_order_each_once_and_as_they_are(config: Path) -> None:
    expected = random_samples(NUM_TRAIN)
    batches = list(split_batches(config, "train"))
    assert [key for batch in batches for key in batch["key"]] == [sample["key"] for sample in expected]
    assert keys(config, "train", limit=3) == [sample["key"] for sample in expected[:3]]
    again = list(split_batches(config, "train"))
    for one, other in zip(batches, again, strict=True):
        assert torch.equal(one["source"], other["source"])


@pytest.mark.parametrize("split", ["validation", "test", "unseen_pairs", "Train"])
def test_a_split_that_there_is_not_is_answered_with_those_that_there_are(config: Path, split: str) -> None:
    with pytest.raises(
        SettingsError, match=f"^--split {split}: .* has no split '{split}'; expected one of train, val$"
    ):
        split_batches(config, split)


def test_held_out_splits_are_named_where_the_data_have_some(tmp_path: Path) -> None:
    world = write_config(tmp_path / "w.yaml", "datamodules.tinyworld.data.TinyWorldData", root=str(tmp_path / "world"))
    with pytest.raises(
        SettingsError, match=r"^--split validation: expected one of train, val, .*unseen_pairs"
    ) as error:
        split_batches(world, "validation")
    assert "test_split" not in str(error.value)
    assert not (tmp_path / "world").exists()


def test_another_argument_that_is_wrong_is_not_taken_for_the_split(tmp_path: Path) -> None:
    wrong = write_config(tmp_path / "w.yaml", "datamodules.shard_data.ShardData", trian=str(tmp_path))
    with pytest.raises(SettingsError, match="trian") as error:
        split_batches(wrong, "validation")
    assert "--split" not in str(error.value)


@pytest.mark.parametrize(("split", "count"), [("val", 1), ("test", 1), ("train", 2)])
def test_a_table_that_no_training_has_converted_is_converted(own_table: Path, split: str, count: int) -> None:
    assert len(keys(own_table, split)) == count
