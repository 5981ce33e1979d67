"""The training module: exact resume, counting, checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmig.checkpoints.checkpoint import read_checkpoint
from mmig.checkpoints.files import checkpoints_in
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm
from tests.terms import values_of
from tests.toy import NUM_FEATURES, ToyModule, ToyStream, fit


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_two_halves_equal_one_whole_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = ToyModule(dropout=0.1)
    start = whole.state_dict()
    halves, resumed = ToyModule(dropout=0.1), ToyModule(dropout=0.1)
    halves.load_state_dict(start)
    fit(whole, tmp_path / "whole", 40)
    fit(halves, tmp_path / "halves", 20)
    torch.manual_seed(123)  # whatever ran before must not matter
    trainer = fit(resumed, tmp_path / "halves", 40, resume=tmp_path / "halves" / "step-00000020.ckpt")
    assert equal(weights(whole), weights(resumed))
    assert trainer.global_step == resumed.step == 40
    ends = [read_checkpoint(tmp_path / name / "step-00000040.ckpt") for name in ("whole", "halves")]
    assert equal(*[list(end["ema"]["weights"].values()) for end in ends])
    moments = [[s["exp_avg"] for s in end["optimizer_states"][0]["state"].values()] for end in ends]
    assert equal(*moments)


def test_micro_batches_do_not_change_the_step(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole, cut = ToyModule(), ToyModule(micro_batch_size=5)
    cut.load_state_dict(whole.state_dict())
    fit(whole, tmp_path / "a", 10)
    fit(cut, tmp_path / "b", 10)
    for left, right in zip(weights(whole), weights(cut), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


class DrawnCounts(ToyModule):
    """Half of the samples, by a coin, count in no "l1" loss."""

    def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
        terms = super().losses(batch, draws)
        return terms | {"l1": LossTerm(draws.bernoulli("coin", 0.5), lambda: terms["l1"].values)}


def test_counts_that_depend_on_draws_agree_over_micro_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole, cut = DrawnCounts(seed=3), DrawnCounts(seed=3, micro_batch_size=5)
    cut.load_state_dict(whole.state_dict())
    batch = next(iter(ToyStream(1, 12, 0, 1)))
    draws = Draws(3, batch["position"])
    counted = values_of(whole, batch, draws)["l1"][draws.bernoulli("coin", 0.5)].detach()
    assert 0 < len(counted) < 12
    for module, name in ((whole, "whole"), (cut, "cut")):
        logged = fit(module, tmp_path / name, 1).callback_metrics
        torch.testing.assert_close(logged["train/l1"], counted.mean(), rtol=1e-5, atol=0)
    for left, right in zip(weights(whole), weights(cut), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, two = ToyModule(), ToyModule(micro_batch_size=4)
    two.load_state_dict(one.state_dict())
    fit(one, tmp_path / "one", 10)
    fit(two, tmp_path / "two", 10, devices=2)
    ends = [read_checkpoint(tmp_path / name)["state_dict"] for name in ("one", "two")]
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-5, atol=1e-6)


def test_each_term_is_divided_by_its_own_count() -> None:
    module = ToyModule()
    batch = next(iter(ToyStream(1, 12, 0, 1)))
    draws = Draws(0, batch["position"])
    table, counted = module.computed(module.losses(batch, draws))
    assert counted[:, 1].sum() == 8
    errors = module.error(batch["inputs"], draws).abs()
    torch.testing.assert_close((table * counted).sum(dim=0)[1], errors[batch["position"] % 3 != 0].sum())


def test_validation_reports_terms_and_timestep_ranges(tmp_path: Path) -> None:
    trainer = fit(ToyModule(), tmp_path, 4, val_check_interval=2)
    logged = trainer.callback_metrics
    assert {"val/loss", "val/squared", "val/l1", "val/squared/t000-249"} <= logged.keys()
    expected = logged["val/squared"] + 0.5 * logged["val/l1"]
    torch.testing.assert_close(logged["val/loss"], expected, rtol=1e-5, atol=0)


class WithoutTimestep(ToyModule):
    terms_without_timestep = ("l1",)


def test_terms_without_timestep_are_reported_whole(tmp_path: Path) -> None:
    logged = fit(WithoutTimestep(), tmp_path, 2, val_check_interval=2).callback_metrics
    assert {"val/l1", "val/squared/t000-249"} <= logged.keys()
    assert not [name for name in logged if name.startswith("val/l1/")]


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    fit(ToyModule(), tmp_path, 7, every_n_steps=2)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-00000006.ckpt", "step-00000007.ckpt"]


def test_checkpoint_of_another_width_is_refused(tmp_path: Path) -> None:
    fit(ToyModule(), tmp_path, 2)
    other = ToyModule()
    other.net[0] = nn.Linear(3, 9)
    with pytest.raises(ValueError, match=r"net\.0\.weight has shape \[8, 3\]"):
        other.check_weights(read_checkpoint(tmp_path)["state_dict"])


def test_frozen_backbone_stays_out_of_the_checkpoint(tmp_path: Path) -> None:
    class WithBackbone(ToyModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Linear(2, 2).requires_grad_(False)

        def named_backbones(self) -> dict[str, nn.Module]:
            return {"backbone": self.backbone}

    fit(WithBackbone(), tmp_path, 2)
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint["state_dict"].keys() == checkpoint["ema"]["weights"].keys() == ToyModule().state_dict().keys()


def test_tied_weights_are_stored_under_both_names(tmp_path: Path) -> None:
    class Tied(ToyModule):
        def __init__(self) -> None:
            super().__init__()
            self.twin = nn.Linear(NUM_FEATURES, 8)
            self.twin.weight = self.net[0].weight

    fit(Tied(), tmp_path, 2)
    stored = read_checkpoint(tmp_path)["state_dict"]
    assert torch.equal(stored["twin.weight"], stored["net.0.weight"])
    fit(Tied(), tmp_path, 3, resume=tmp_path / "step-00000002.ckpt")


def test_terms_without_weight_are_named() -> None:
    module = ToyModule()
    module.loss_weights = {"squared": 1.0}
    batch = next(iter(ToyStream(1, 12, 0, 1)))
    with pytest.raises(ValueError, match="loss_weights names"):
        module._terms(batch)


def test_bf16_mixed_with_fused_adamw_and_clipping_trains(tmp_path: Path) -> None:
    module = ToyModule(OptimizerConfig(lr=1e-2, clip_norm=0.1, schedule="cosine"))
    before = weights(module)
    fit(module, tmp_path, 3, precision="bf16-mixed")
    assert not equal(before, weights(module))
