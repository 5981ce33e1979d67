"""A training whose data have nothing that its losses count ends with a line that says what they lack."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from mmig.callbacks.counted_losses import CountedLosses, NothingCountsError
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm
from tests.datamodules.make_samples import make_image
from tests.toy import ToyModule, fit

BATCH = 4


class FromTargets(ToyModule):
    """Learns from the mean of each target image that is there, if its sample has an instruction too where it must."""

    needs: tuple[str, ...] = ("target",)

    def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
        terms = super().losses({**batch, "inputs": batch["target"].mean(dim=(2, 3))}, draws)
        counted = torch.stack([batch[f"has_{field}"] for field in self.needs]).all(dim=0)
        return {name: LossTerm(counted, lambda term=term: term.values) for name, term in terms.items()}


def train(tmp_path: Path, steps: int, needs: tuple[str, ...] = ("target",), **fields: Any) -> None:
    module = FromTargets()
    module.needs = needs
    write_shards([{"key": str(n), **fields} for n in range(12)], tmp_path / "data")
    shards = ShardData(str(tmp_path / "data"), global_batch_size=BATCH, resolution=16)
    fit(module, tmp_path / "run", steps, None, more_callbacks=[CountedLosses()], data=shards)


def test_the_line_says_which_field_is_missing_at_the_end_of_the_first_epoch(tmp_path: Path) -> None:
    words = r"no sample of the first 12 counts in a loss \(.*\), .*: they lack target, and have source, instruction;"
    with pytest.raises(NothingCountsError, match=words) as caught:
        train(tmp_path, 20, source=make_image(0), instruction="x")
    assert "\n" not in str(caught.value)


def test_a_run_that_is_shorter_than_an_epoch_is_judged_at_its_end(tmp_path: Path) -> None:
    with pytest.raises(NothingCountsError, match=r"no sample of the first 8 .* they lack target"):
        train(tmp_path, 2, instruction="x")


def test_fields_that_are_missing_together_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(NothingCountsError, match=r"they lack target, target_mask, .*instruction.* and have source;"):
        train(tmp_path, 3, needs=("target", "instruction"), source=make_image(0))


def test_one_sample_that_counts_is_enough(tmp_path: Path) -> None:
    samples = [{"key": str(n), "instruction": "x"} | ({"target": make_image(1)} if n == 7 else {}) for n in range(12)]
    write_shards(samples, tmp_path / "data")
    shards = ShardData(str(tmp_path / "data"), global_batch_size=BATCH, resolution=16)
    module = FromTargets()
    fit(module, tmp_path / "run", 7, None, more_callbacks=[CountedLosses()], data=shards)
    assert module.step == 7


def test_a_validation_in_which_nothing_counts_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_shards([{"key": str(n), "target": make_image(n)} for n in range(8)], tmp_path / "train")
    write_shards([{"key": str(n), "instruction": "x"} for n in range(4)], tmp_path / "val")
    shards = ShardData(str(tmp_path / "train"), str(tmp_path / "val"), global_batch_size=BATCH, resolution=16)
    with caplog.at_level(logging.WARNING):
        fit(FromTargets(), tmp_path / "run", 2, None, more_callbacks=[CountedLosses()], data=shards)
    assert any("no validation sample counts in a loss" in record.getMessage() for record in caplog.records)
