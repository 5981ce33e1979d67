"""Splits on disk: reproducible to the byte, read back through the stream, bad requests refused in one line."""

import hashlib

import pytest

from datamodules.shards import verify
from datamodules.tinyworld.__main__ import main
from datamodules.tinyworld.data import TinyWorldData
from datamodules.tinyworld.sample import make_sample
from datamodules.tinyworld.write import write_split


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_shards_are_equal_to_the_byte_for_any_number_of_workers(tmp_path):
    write_split(tmp_path / "one", "train", 70, 0)
    write_split(tmp_path / "two", "train", 70, 0, workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert verify(tmp_path / "one") == []


def test_every_sample_is_reported_to_the_progress_bar(tmp_path):
    ticks = []
    write_split(tmp_path / "shards", "val", 5, 0, each=lambda: ticks.append(1))
    assert len(ticks) == 5


def test_the_command_writes_a_split(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "shards"), "--split", "val", "--count", "3", "--no-photographs"]) == 0
    assert "3 samples in 1 shards" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--count", "0"], "count: expected at least 1"),
        (["--count", "1", "--split", "unseen_photographs", "--no-photographs"], "needs photographs"),
    ],
)
def test_a_bad_request_leaves_nothing_that_looks_complete(tmp_path, capsys, options, words):
    assert main(["--out", str(tmp_path / "shards"), *options]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "shards" / "index.json").exists()


def data(tmp_path, **options):
    return TinyWorldData(
        root=str(tmp_path), train_count=12, val_count=4, test_count=4, global_batch_size=4, eval_batch_size=4, **options
    )


def test_the_data_module_writes_what_is_missing_and_reads_it_back(tmp_path):
    module = data(tmp_path)
    module.prepare_data()
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch["source"].shape == (4, 3, 64, 64) and bool(batch["has_target_mask"].all())
    index = batch["metadata"][0]["index"]
    expected = make_sample(0, "train", index)
    assert batch["response"][0] == expected["response"] and batch["metadata"][0] == expected["metadata"]


def test_what_is_there_already_is_kept(tmp_path):
    data(tmp_path).prepare_data()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    data(tmp_path).prepare_data()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")} == before


def test_other_settings_use_other_folders(tmp_path):
    base = data(tmp_path)
    for options in ({"photographs": False}, {"world_seed": 1}, {"test_split": "outline"}):
        assert data(tmp_path, **options).folders["test"] != base.folders["test"]


def test_an_unknown_test_split_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.init_args\.test_split: expected one of"):
        data(tmp_path, test_split="unseen")
