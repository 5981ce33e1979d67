"""Attachments through real shards and the real stream: workers, ranks, resume, flips, mixtures and cached features."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.feature_shards import write_features
from datamodules.features import FeatureError
from datamodules.mixture import Mixture
from datamodules.schema import AttachmentSettings, Batch
from datamodules.shard_data import ShardData
from datamodules.shard_index import ShardIndex
from datamodules.shards import verify, write_shards
from datamodules.tinyworld.data import TinyWorldData
from datamodules.transforms import ImageTransform
from tests.datamodules.attached import SETTINGS, digest, samples, stream
from tests.datamodules.make_samples import make_image, make_samples

SQUARE = ImageTransform(16)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return write_shards(samples(44), tmp_path_factory.mktemp("attached") / "data", 7)


def batches(index: ShardIndex, count: int, **settings: Any) -> list[Batch]:
    made = stream(index, **settings)
    found: list[Batch] = []
    while len(found) < count:
        found += islice(made, count - len(found))
    made.close()
    return found


def test_every_attachment_comes_as_it_was_written(index: ShardIndex) -> None:
    written = {sample["key"]: sample for sample in samples(44)}
    read = 0
    for batch in batches(index, 7, shuffle=False):
        for row, key in enumerate(batch["key"]):
            sample = written[key]
            shown = [entry for entry in sample["attachments"] if entry["role"] != "answer"]
            assert batch["attachment_kinds"][row] == [entry["kind"] for entry in shown]
            assert batch["attachment_roles"][row] == [entry["role"] for entry in shown]
            for word in batch["attachment_words"][row]:
                assert word and sample["instruction"][slice(*word)] == "thing"
            tone = 0.05 + 0.01 * (int(key) % 5)
            for number, entry in enumerate(shown):
                length = int(batch["attachment_audio_samples"][row, number])
                assert length == pytest.approx(8_000 * tone if entry["kind"] == "audio" else 0, abs=2)
                heard, seen = batch["has_attachment_audio"][row, number], batch["has_attachment_images"][row, number]
                assert (bool(heard), bool(seen)) == (entry["kind"] == "audio", entry["kind"] == "image")
                picture, audio = batch["attachment_images"][row, number], batch["attachment_audio"][row, number]
                assert (picture.abs().sum() > 0) == seen and (audio.abs().max() > 0.3) == heard
                assert audio[length:].abs().sum() == 0
                read += 1
    assert read > 30


def test_bad_attachments_are_counted_by_reason(index: ShardIndex) -> None:
    made = stream(index)
    list(made)
    reasons = {reason for reason, _ in made.fault_counts}
    assert reasons == {"audio", "long", "format"} and sum(made.fault_counts.values()) >= 6


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_and_faults_do_not_depend_on_the_number_of_workers(index: ShardIndex, workers: int) -> None:
    alone, shared = batches(index, 9), batches(index, 9, num_workers=workers)
    assert [digest(batch) for batch in alone] == [digest(batch) for batch in shared]
    assert sum(len(batch["faults"]) for batch in alone) > 5


def test_two_ranks_read_the_parts_of_the_whole(index: ShardIndex) -> None:
    for whole, *parts in zip(
        batches(index, 7), *(batches(index, 7, rank=r, world_size=2) for r in (0, 1)), strict=True
    ):
        assert parts[0]["key"] + parts[1]["key"] == whole["key"]
        for row, (part, own) in enumerate((part, own) for part in parts for own in range(3)):
            slots = part["attachment_images"].shape[1]
            assert torch.equal(part["attachment_images"][own], whole["attachment_images"][row, :slots])
            length = part["attachment_audio"].shape[2]
            assert torch.equal(part["attachment_audio"][own], whole["attachment_audio"][row, :slots, :length])
            assert not whole["has_attachment_images"][row, slots:].any()
            assert part["attachment_words"][own] == whole["attachment_words"][row]


def test_a_killed_reader_goes_on_with_exactly_the_rest(index: ShardIndex, tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-m", "tests.datamodules.attached", str(index.directory)]
    killed = subprocess.run([*command, str(tmp_path / "out"), "12", "4"], cwd=root, check=False)
    assert killed.returncode == -9
    subprocess.run([*command, str(tmp_path / "out"), "8"], cwd=root, check=True)
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    whole = json.loads(json.dumps([digest(batch) for batch in batches(index, 12)]))
    assert lines == whole


def test_attachments_are_never_flipped_or_cut(tmp_path: Path) -> None:
    picture = make_image(5, 8)
    attached = [{"kind": "image", "data": picture}]
    index = write_shards(({**sample, "attachments": attached} for sample in make_samples(12)), tmp_path / "data", 6)  # type: ignore[typeddict-item]
    plain, flipped = (batches(index, 2, transform=ImageTransform(12, 20, "random", flip)) for flip in (False, True))
    expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1
    changed = 0
    for before, after in zip(plain, flipped, strict=True):
        assert (after["attachment_images"] == expected).all() and (before["attachment_images"] == expected).all()
        changed += sum(not torch.equal(*pair) for pair in zip(before["target"], after["target"], strict=True))
    assert changed > 2


def test_expressive_is_a_text_that_decides_about_flips_too(tmp_path: Path) -> None:
    plain = [{**sample, "expressive": "make the one on the left red"} for sample in make_samples(8)]
    index = write_shards(plain, tmp_path / "data", 4)
    for before, after in zip(
        *(batches(index, 1, transform=replace(SQUARE, flip=f)) for f in (False, True)), strict=True
    ):
        assert torch.equal(before["target"], after["target"]) and after["has_expressive"].all()
        assert after["expressive"] == ["make the one on the left red"] * 6


def test_mixtures_of_data_with_and_without_attachments_and_buckets_of_any_shape(
    index: ShardIndex, tmp_path: Path
) -> None:
    plain = write_shards(make_samples(20), tmp_path / "plain", 10)
    found = batches(Mixture([index, plain]), 10, transform=SQUARE)  # type: ignore[arg-type]
    kinds = {tuple(kinds) for batch in found for kinds in batch["attachment_kinds"]}
    assert kinds == {(), ("image",), ("image", "audio")}
    assert all(batch["attachment_images"].shape[-2:] == (8, 8) for batch in found)
    shaped = batches(index, 2, transform=ImageTransform(16, shape=(16, 24)))
    assert shaped[0]["target"].shape[-2:] == (16, 24) and shaped[0]["attachment_images"].shape[-2:] == (8, 8)


def _compute(batch: Batch, mirrored: bool) -> list[dict[str, torch.Tensor]]:
    """What a model might make of attachments, the same in both directions, and of the images."""
    attached = batch["attachment_images"].mean(dim=(2, 3, 4)) * batch["has_attachment_images"]
    of_image: list[dict[str, torch.Tensor]] = [{"image": image[0, :2]} for image in batch["target"]]
    return of_image if mirrored else [{**own, "seen": row} for own, row in zip(of_image, attached, strict=True)]


def test_cached_shards_hold_the_attachments_and_refuse_other_settings(index: ShardIndex, tmp_path: Path) -> None:
    transform = replace(SQUARE, flip=True)
    cached = write_features(index, tmp_path / "f", transform, _compute, {}, 4, attachments=SETTINGS)
    assert verify(tmp_path / "f") == []
    encoded = {"transform": transform, "encoded": ("source", "target")}
    for live, read in zip(batches(index, 7, transform=transform), batches(cached, 7, **encoded), strict=True):
        assert live["key"] == read["key"] and "target" not in read
        assert [fault["reason"] for fault in live["faults"]] == [fault["reason"] for fault in read["faults"]]
        assert torch.equal(live["attachment_images"], read["attachment_images"])
        assert torch.equal(live["attachment_audio"], read["attachment_audio"])
        expected = live["attachment_images"].mean(dim=(2, 3, 4))
        slots = min(expected.shape[1], read["features.seen"].shape[1])
        torch.testing.assert_close(read["features.seen"][:, :slots], expected[:, :slots])
    with pytest.raises(FeatureError, match="cached features are of attachments of '8 px, 8000 samples/s', this config"):
        batches(cached, 7, transform=transform, attachments=AttachmentSettings(16, 8_000))


def test_settings_of_the_data_reach_the_batches_and_answers_reach_a_scorer(index: ShardIndex) -> None:
    settings: dict[str, Any] = {"attachment_size": 8, "audio_rate": 8_000, "audio_seconds": 0.5, "max_attachments": 3}
    data = ShardData(
        train=str(index.directory), test=str(index.directory), resolution=16, max_bad_fraction=1.0, **settings
    )
    for loader in (data.train_dataloader(), data.test_dataloader()):
        shapes = [batch["attachment_images"].shape[2:] for batch in loader]  # type: ignore[union-attr]
        assert set(shapes) == {(3, 8, 8)}
    found = dict(data.read_answers("test"))
    expected = {f"{number:06d}": number for number in range(44) if number % 4 == 3 and number % 7 != 6}
    assert found.keys() == expected.keys()
    for key, number in expected.items():
        ((place, entry),) = found[key].items()
        assert place == 2 and entry["data"].tobytes() == make_image(200 + number).tobytes()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [ShardData, TinyWorldData])
def test_the_settings_can_be_given_in_a_configuration(kind: type[ShardData]) -> None:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(kind, "data")
    given = ["--data.attachment_size", "32", "--data.audio_rate", "48000", "--data.audio_seconds", "2.5"]
    data = parser.instantiate(parser.parse_args([*given, "--data.max_attachments", "1"]))["data"]
    assert data.attachments == AttachmentSettings(32, 48_000, 2.5, 1)
    assert parser.instantiate(parser.parse_args([]))["data"].attachments == AttachmentSettings()


def test_a_sound_without_soundfile_ends_in_one_line_in_a_worker_too(
    index: ShardIndex, tmp_path: Path, root: Path
) -> None:
    (tmp_path / "soundfile.py").write_text("raise ImportError('not here')")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from datamodules.audio import AudioSupportError\n"
        "from datamodules.shard_data import ShardData\n"
        f"data = ShardData(train={str(index.directory)!r}, resolution=16, num_workers=1, max_bad_fraction=1.0)\n"
        "try:\n"
        "    list(data.train_dataloader())\n"
        "except AudioSupportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    assert "pip install 'mmig[audio]'" in done.stdout and done.stdout.count("\n") == 1
