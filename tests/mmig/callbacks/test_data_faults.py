"""What of the data could not be used: every epoch once, over all ranks, exact across resumes."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from mmig.callbacks.data_faults import SHARDS_LISTED, DataFaults, fault_line, fault_row
from mmig.callbacks.row_file import RowFile
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm
from tests.datamodules.make_samples import make_image, make_samples
from tests.toy import ToyModule, fit

NUM_SAMPLES, BATCH, STEPS = 24, 4, 15  # an epoch is 6 steps: two whole ones and a half
WIDE = make_image(0).crop((0, 0, 16, 4))
BAD = {3: ("target", b"\x89PNG cut off"), 9: ("target", WIDE), 17: ("target", WIDE)}


class Brightness(ToyModule):
    """Learns from the mean of each target image; whatever it learns."""

    def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
        return super().losses({**batch, "inputs": batch["target"].mean(dim=(2, 3))}, draws)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    samples = list(make_samples(NUM_SAMPLES))
    for number, (field, content) in BAD.items():
        samples[number][field] = content
    write_shards(samples, folder, samples_per_shard=8)
    return folder


def train(shards: Path, run: Path, steps: int = STEPS, **settings: Any) -> list[dict[str, Any]]:
    """Train on until `steps`; returns the rows of the run."""
    data = ShardData(str(shards), global_batch_size=BATCH, resolution=16, max_bad_fraction=1.0)
    found = sorted((run / "checkpoints").glob("*.ckpt"))
    resume = found[-1] if found else None
    watch: list[L.Callback] = [DataFaults(run)]
    fit(Brightness(), run / "checkpoints", steps, resume, more_callbacks=watch, data=data, **settings)
    return RowFile(run / "data_faults.jsonl", "epoch").read()


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Rows of a run on one rank that nothing interrupts."""
    return train(shards, tmp_path_factory.mktemp("whole"))


def test_there_is_a_row_an_epoch_and_one_for_the_rest(whole: list[dict[str, Any]]) -> None:
    assert [(row["epoch"], row["step"], row["whole"]) for row in whole] == [(0, 6, True), (1, 12, True), (2, 15, False)]
    for row in whole[:2]:  # each bad sample comes once in an epoch in its own place, or again as a replacement
        assert row["faults"]["size"] >= 2 and row["faults"]["format"] >= 1
        assert row["bad"] == sum(row["faults"].values()) == sum(row["shards"].values())
        assert row["read"] == NUM_SAMPLES + row["bad"] and row["share"] == row["bad"] / row["read"]


def test_resumes_on_other_ranks_change_no_count(shards: Path, whole: list[dict[str, Any]], tmp_path: Path) -> None:
    train(shards, tmp_path, 4, devices=2)
    assert [(row["epoch"], row["whole"]) for row in RowFile(tmp_path / "data_faults.jsonl", "epoch").read()] == [
        (0, False)
    ]
    train(shards, tmp_path, 9)
    assert train(shards, tmp_path, STEPS, devices=2) == whole


def test_one_line_an_epoch_says_what_was_lost(
    shards: Path, whole: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        rows = train(shards, tmp_path, 6)
    assert rows == whole[:1]
    lines = [record.getMessage() for record in caplog.records if record.name == "mmig.callbacks.data_faults"]
    assert lines == [f"{fault_line(rows[0])}; see {tmp_path / 'data_faults.jsonl'}"]
    assert f"{rows[0]['bad']} of {rows[0]['read']} samples read could not be used" in lines[0]


def test_a_loader_without_epochs_is_summed_up_at_the_end_and_good_data_make_no_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        fit(ToyModule(), tmp_path, 5, more_callbacks=[DataFaults(tmp_path)])
    [row] = RowFile(tmp_path / "data_faults.jsonl", "epoch").read()
    assert row["read"] == 5 * 12 and row["bad"] == 0 and row["share"] == 0.0
    assert "could not be used" not in caplog.text


def test_only_the_worst_shards_are_listed() -> None:
    bad = Counter({("image", f"{number:05d}.tar"): number + 1 for number in range(100)})
    row = fault_row(4, 50, True, 1000, bad)
    assert len(row["shards"]) == SHARDS_LISTED and next(iter(row["shards"])) == "00099.tar"
    assert fault_line(row) == (
        "data of epoch 4: 5050 of 6050 samples read could not be used (83.47%): image 5050; most in 00099.tar (100)"
    )
