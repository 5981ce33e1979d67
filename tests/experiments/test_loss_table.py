"""Held-out losses of several runs: what is averaged, what is left out, what is compared with what."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.ablation import ABLATION_SEED
from experiments.loss_table import START, difference, held_out_losses, loss_table, report
from mmig.checkpoints.checkpoint import CheckpointError, init_weights, read_checkpoint
from mmig.training.rng import Draws
from tests.terms import values_of
from tests.toy import ToyModule, ToyStage, ToyStream, fit


def batches() -> list[dict[str, Any]]:
    first, second = ToyStream(2, 6, 0, 1)
    second["key"][1] = ""  # a sample that the stream could not read
    return [first, second]


def test_each_term_is_the_mean_of_its_draws_over_the_samples_in_which_it_counts() -> None:
    torch.manual_seed(0)
    module = ToyModule(seed=5)
    found = held_out_losses(module, batches(), num_draws=3)
    assert found["squared"].keys() == {"0", "1", "2", "3", "4", "5", "6", "8", "9", "10", "11"}
    assert found["l1"].keys() == {"1", "2", "4", "5", "8", "10", "11"}  # every third has no target
    batch = batches()[0]
    drawn = [
        values_of(module, batch, Draws(5 + ABLATION_SEED + n, batch["position"]))["l1"][4].item() for n in range(3)
    ]
    assert found["l1"]["4"] == pytest.approx(sum(drawn) / 3)


def test_the_same_noise_whatever_the_batches() -> None:
    module = ToyModule()
    whole = held_out_losses(module, ToyStream(2, 6, 0, 1), 1)
    cut = held_out_losses(module, ToyStream(6, 2, 0, 1), 1)
    assert whole.keys() == cut.keys()
    for term in whole:
        assert whole[term] == pytest.approx(cut[term])


def test_a_difference_that_counts_is_marked_and_one_that_does_not_is_not() -> None:
    keys = [str(number) for number in range(20)]

    def of(squared: Sequence[float]) -> dict[str, dict[str, float]]:
        return {"squared": dict(zip(keys, squared, strict=True)), "l1": {}}

    alternating = [1.0 + 0.1 * (-1) ** number for number in range(20)]
    losses = {START: of([1.0] * 20), "runs/same": of(alternating), "runs/lower": of([0.5] * 20)}
    shown = loss_table(losses)
    assert [[*column.cells] for column in shown.columns] == [
        ["squared", "l1"],
        ["1.0000 ", "nan "],
        ["1.0000 ", "nan "],
        ["0.5000*", "nan "],
    ]
    found = report(losses)
    assert found["runs/lower"]["squared"]["difference"]["value"] == pytest.approx(-0.5)
    assert found["runs/lower"]["l1"]["loss"] == {"value": None, "low": None, "high": None, "n": 0}
    assert difference(losses["runs/lower"], losses[START], "l1").n == 0


def test_a_run_of_an_earlier_stage_can_be_measured_though_not_continued(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = ToyModule()
    fit(trained, tmp_path, 2)
    later = ToyStage(train_backbone=True, new=True)
    later.new_parts = ()
    with pytest.raises(CheckpointError, match="lacks"):
        init_weights(later, read_checkpoint(tmp_path))
    init_weights(later, read_checkpoint(tmp_path), complete=False)
    average = read_checkpoint(tmp_path)["ema"]["weights"]["net.0.weight"]
    assert torch.equal(later.net[0].weight, average)
