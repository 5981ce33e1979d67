"""Cached features in samples, shards, transforms and batches, whatever model made them."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset
from safetensors.torch import load

from datamodules.decode import decode
from datamodules.encode import encode
from datamodules.faults import BadSample
from datamodules.feature_shards import open_features, write_features
from datamodules.features import FeatureError, Features, pack, stack, unpack
from datamodules.schema import Sample, cached_feature, collate
from datamodules.shard_data import ShardData
from datamodules.shard_index import ShardIndex
from datamodules.shard_reader import ShardReader
from datamodules.shards import index_shards, verify, write_shards
from datamodules.sources import Source
from datamodules.stream import ShardStream
from datamodules.transforms import ImageTransform
from tests.datamodules.feature_program import BATCH_SIZE, FACTS, SQUARE, compute
from tests.datamodules.make_samples import make_image, make_samples


def write(tmp_path: Path, samples: list[Sample] | None = None, name: str = "features", **settings: Any) -> ShardIndex:
    """Shards of four samples in tmp_path/plain, if they are not there, and the same with features."""
    plain = tmp_path / "plain"
    index = ShardIndex.load(plain) if plain.exists() else write_shards(samples or make_samples(10), plain, 4)
    settings = {"transform": SQUARE, "compute": compute, "facts": FACTS, "batch_size": BATCH_SIZE} | settings
    return write_features(index, tmp_path / name, **settings)


def stream(index: ShardIndex, **settings: Any) -> ShardStream:
    settings = {"global_batch_size": 2, "seed": 3, "max_bad_fraction": 1.0, "transform": SQUARE} | settings
    return ShardStream(index, **settings)


def test_a_sample_with_features_comes_back_as_it_was() -> None:
    features = Features({"a": torch.randn(2, 3), "b": torch.ones(1, dtype=torch.bfloat16)}, {"model": "one"})
    (sample,) = make_samples(1)
    back = decode(sample["key"], encode({**sample, "features": features}))["features"]
    assert back.facts == features.facts and back.tensors.keys() == {"a", "b"}
    assert all(torch.equal(back.tensors[name], value) for name, value in features.tensors.items())


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:20], lambda data: b"\x80\x04" + data])
def test_features_that_cannot_be_read_are_a_fault(damage: Any) -> None:
    files = {"json": b'{"instruction": "a"}', "features.safetensors": damage(pack(Features({"a": torch.ones(9)}, {})))}
    with pytest.raises(BadSample) as bad:
        decode("a", files)
    assert bad.value.reason == "features"


def test_the_features_of_the_flipped_images_are_taken_where_the_draw_flips(tmp_path: Path) -> None:
    flipping = replace(SQUARE, flip=True)
    features = stream(write(tmp_path, transform=flipping), transform=flipping)
    plain = stream(ShardIndex.load(tmp_path / "plain"), transform=flipping)
    flips = 0
    for cached, live in zip(features, plain, strict=True):
        assert cached["key"] == live["key"]
        assert torch.equal(cached_feature(cached, "image")[0], live["target"][:, 0, :2])
        flips += sum(not torch.equal(*pair) for pair in zip(live["target"], live["target"].flip(-1), strict=True))
    assert flips and "features.image.mirrored" not in cached


def test_samples_whose_texts_name_a_side_are_never_flipped_with_features_either(tmp_path: Path) -> None:
    samples = [{**sample, "instruction": "the left one"} for sample in make_samples(8)]
    flipping = replace(SQUARE, flip=True)
    for cached in stream(write(tmp_path, samples, transform=flipping), transform=flipping):
        assert torch.equal(cached_feature(cached, "image")[0], cached["target"][:, 0, :2])


@pytest.mark.parametrize(
    ("transform", "found"),
    [
        (ImageTransform(8), "'16x16 px, centre crop', the transform of this configuration makes '8x8 px, centre crop'"),
        (ImageTransform(16, crop="random"), "makes '16x16 px, random crop'"),
        (ImageTransform(16, 24), "makes '16x16 px of 16-24 px, centre crop'"),
        (ImageTransform(16, flip=True), "other flips: 'none', the transform of this configuration makes 'both'"),
    ],
)
def test_features_of_images_that_were_cut_otherwise_are_refused(
    tmp_path: Path, transform: ImageTransform, found: str
) -> None:
    with pytest.raises(FeatureError) as error:
        list(stream(write(tmp_path), transform=transform))
    assert found in str(error.value)


@pytest.mark.parametrize("drawn", [ImageTransform(16, crop="random"), ImageTransform(16, 24)])
def test_what_is_cut_anew_each_time_cannot_be_cached(tmp_path: Path, drawn: ImageTransform) -> None:
    with pytest.raises(FeatureError, match="each epoch cuts the images anew"):
        write(tmp_path, transform=drawn)


def test_a_batch_holds_zeros_behind_short_features_and_counts_their_rows() -> None:
    samples: list[Any] = [
        {"key": "a", "instruction": "x", "features": Features({"f": torch.ones(2, 3)}, FACTS)},
        {"key": ""},
        {"key": "b", "instruction": "x", "features": Features({"f": torch.ones(1, 3)}, FACTS)},
    ]
    batch = stack(samples)
    assert batch["features.f"].sum(dim=(1, 2)).tolist() == [6, 0, 3]
    assert batch["features.f.rows"].tolist() == [2, 0, 1]
    assert batch["feature_facts"] == [FACTS, None, FACTS]


def test_samples_with_and_without_features_do_not_mix() -> None:
    first, second = make_samples(2)
    with pytest.raises(FeatureError, match="sample '000001': expected the cached features f as in its batch, found no"):
        collate([{**first, "features": Features({"f": torch.ones(1)}, FACTS)}, second])


def test_the_shards_hold_the_same_samples_in_the_same_order_and_bytes(tmp_path: Path) -> None:
    index = write(tmp_path)
    plain = ShardIndex.load(tmp_path / "plain")
    assert [(row.name, row.count) for row in index.shards] == [(row.name, row.count) for row in plain.shards]
    assert verify(tmp_path / "features") == []
    readers = ShardReader(plain), ShardReader(index)
    for shard, row in enumerate(plain.shards):
        for number in range(row.count):
            before, after = (reader.read(shard, number) for reader in readers)
            assert readers[0].key(shard, number) == readers[1].key(shard, number)
            assert after.keys() - before.keys() == {"features.safetensors"}
            assert all(after[name] == before[name] for name in before)


def test_webdataset_and_safetensors_read_the_shards(tmp_path: Path) -> None:
    write(tmp_path)
    found = next(iter(webdataset.WebDataset(str(tmp_path / "features" / "00000.tar"), shardshuffle=False)))
    assert load(found["features.safetensors"])["image"].shape == (2, 16)
    assert found.keys() >= {"source.png", "target.png", "json"}


def _damaged(count: int = 10) -> list[Sample]:
    samples = list(make_samples(count))
    buffer = io.BytesIO()
    make_image(1).save(buffer, "PNG")
    samples[2]["source"] = buffer.getvalue()[:60]
    samples[5]["source"] = make_image(1).resize((16, 8))
    return samples


def test_bad_samples_are_the_same_faults_and_have_the_same_stand_ins(tmp_path: Path) -> None:
    features = list(stream(write(tmp_path, _damaged())))
    plain = list(stream(ShardIndex.load(tmp_path / "plain")))
    assert [batch["key"] for batch in features] == [batch["key"] for batch in plain]
    assert [batch["faults"] for batch in features] == [batch["faults"] for batch in plain]
    assert {fault["reason"] for batch in features for fault in batch["faults"]} == {"image", "size"}


def test_images_are_not_decoded_where_nobody_looks_at_them(tmp_path: Path) -> None:
    batch = next(iter(stream(write(tmp_path), encoded=("source",))))
    assert "source" not in batch and batch["has_source"].all() and batch["target"].shape == (2, 3, 16, 16)


def test_concept_masks_are_cut_and_flipped_without_an_image() -> None:
    mask = make_image(3, 32, 1)
    features = Features({"f": torch.ones(1)}, {"images": "16x16 px, centre crop", "flips": "both"})
    sample: Any = {"key": "a", "source": b"x", "concepts": [{"phrase": "it", "mask": mask}], "features": features}
    flipping = replace(SQUARE, flip=True)
    masks = [flipping(sample, 0, position)["concepts"][0]["mask"] for position in range(8)]
    assert {found.size for found in masks} == {(16, 16)}
    assert len({found.tobytes() for found in masks}) == 2


def test_a_run_may_change_between_the_data_and_their_features(tmp_path: Path) -> None:
    index, plain = write(tmp_path), ShardIndex.load(tmp_path / "plain")
    whole = [batch["key"] for batch in stream(plain)]
    before = stream(plain)
    next(iter(before))
    after = stream(index, same_as=plain.fingerprint)
    after.load_state_dict(before.state_dict())
    assert [batch["key"] for batch in after] == whole[1:]


def test_ranks_and_workers_share_the_batches_of_one_rank(tmp_path: Path) -> None:
    index = write(tmp_path)
    whole = [cached_feature(batch, "image")[0] for batch in stream(index)]
    ranks = [stream(index, rank=rank, world_size=2, num_workers=rank) for rank in range(2)]
    for expected, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(torch.cat([cached_feature(part, "image")[0] for part in parts]), expected)
    ranks[1].close()


def test_a_killed_writing_goes_on_where_it_was(tmp_path: Path, root: Path) -> None:
    whole = write(tmp_path, name="whole")
    killed = subprocess.run(
        [sys.executable, "-m", "tests.datamodules.feature_program", str(tmp_path)], cwd=root, check=False
    )
    assert killed.returncode == -9
    kept = (tmp_path / "features" / "00000.tar").stat().st_mtime_ns
    with pytest.raises(FeatureError, match="no complete cache of features"):
        open_features(tmp_path / "features", ShardIndex.load(tmp_path / "plain"))
    assert write(tmp_path).fingerprint == whole.fingerprint
    assert (tmp_path / "features" / "00000.tar").stat().st_mtime_ns == kept
    assert not list((tmp_path / "features").glob("*.incomplete"))


def test_a_folder_of_other_features_is_refused_with_both(tmp_path: Path) -> None:
    write(tmp_path)
    assert write(tmp_path) == ShardIndex.load(tmp_path / "features")
    with pytest.raises(FeatureError, match="holds features of model 'one', this configuration has 'two'"):
        write(tmp_path, facts={"model": "two"})


def test_storage_that_fails_stops_the_writing(tmp_path: Path) -> None:
    index = write_shards(make_samples(4), tmp_path / "plain", 4)
    os.unlink(tmp_path / "plain" / "00000.tar")
    with pytest.raises(ValueError, match="start again to go on"):
        write_features(index, tmp_path / "features", SQUARE, compute, FACTS, BATCH_SIZE)


def test_a_damaged_tar_is_one_with_features_too(tmp_path: Path) -> None:
    index = write_shards(make_samples(10), tmp_path / "plain", 4)
    tar = index.tar_path("00001.tar")
    tar.write_bytes(tar.read_bytes()[: index.open_members(1).members(2)[0].offset - 512])
    index_shards(tmp_path / "plain")
    features = write(tmp_path)
    assert verify(tmp_path / "features") == [] and len(features) == 9
    assert {fault["reason"] for batch in stream(features) for fault in batch["faults"]} == {"truncated"}


def test_a_disk_without_room_is_one_clear_line_before_anything_is_computed(tmp_path: Path) -> None:
    index = write_shards(make_samples(10), tmp_path / "plain", 4)
    free = shutil.disk_usage(tmp_path).free
    huge = tuple(replace(row, bytes=free) for row in index.shards)
    with pytest.raises(FeatureError, match=r"about \d+\.\d GB are needed and \d+\.\d GB are free; make room") as caught:
        write_features(replace(index, shards=huge), tmp_path / "f", SQUARE, pytest.fail, FACTS, BATCH_SIZE)
    assert "\n" not in str(caught.value) and not list((tmp_path / "f").glob("*.tar"))


@pytest.mark.parametrize("size", [0, -1])
def test_batches_of_nothing_are_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(FeatureError, match=f"batch_size: expected at least 1, found {size}"):
        write(tmp_path, batch_size=size)
    assert not (tmp_path / "features").exists()


def test_features_of_other_data_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    write_shards(make_samples(4), tmp_path / "other", 4)
    os.rename(tmp_path / "features", tmp_path / "train")
    data = ShardData(train=str(tmp_path / "other"), features=str(tmp_path), resolution=16, global_batch_size=2)
    with pytest.raises(FeatureError, match=r"features of data [0-9a-f]{12}, the configuration names data [0-9a-f]{12}"):
        data.train_dataloader()


def test_validation_may_do_without_features(tmp_path: Path) -> None:
    write(tmp_path)
    plain = str(tmp_path / "plain")
    os.rename(tmp_path / "features", tmp_path / "train")
    data = ShardData(train=plain, val=plain, features=str(tmp_path), resolution=16, global_batch_size=2)
    assert "feature_facts" in next(iter(data.train_dataloader()))
    assert "feature_facts" not in next(iter(data.val_dataloader()))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"of": "x"}'])
def test_a_damaged_recipe_is_one_clear_line(tmp_path: Path, damage: bytes) -> None:
    index = write(tmp_path)
    recipe = tmp_path / "features" / "features.json"
    recipe.write_bytes(damage)
    for read in (lambda: open_features(tmp_path / "features", index), lambda: write(tmp_path)):
        with pytest.raises(FeatureError, match=r"features\.json: damaged .* remove the folder") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_list_of_sources_cannot_be_cached_and_is_not_spelled_out(tmp_path: Path) -> None:
    data = ShardData(train=[Source(f"file://me:secret@{tmp_path}")])
    with pytest.raises(
        ValueError, match=r"data\.init_args\.train: expected a folder of shards, found a list of sources"
    ):
        data.load_index("train")


def test_the_recipe_says_what_the_features_are_made_of(tmp_path: Path) -> None:
    write(tmp_path)
    recipe = json.loads((tmp_path / "features" / "features.json").read_text())
    assert recipe["of"] == ShardIndex.load(tmp_path / "plain").fingerprint
    reader = ShardReader(ShardIndex.load(tmp_path / "features"))
    assert unpack(reader.read(0, 0)["features.safetensors"]).facts == recipe["facts"]
