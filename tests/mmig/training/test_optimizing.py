"""Two optimisers in a run: what counts as a step, when each is due, its rates, its clipping, what is logged."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from mmig.checkpoints.checkpoint import read_checkpoint
from mmig.training.optim import OptimizerConfig, OptimizerGroup
from mmig.training.turns import Turn
from tests.toy import ToyData, ToyStream, fit
from tests.two_optimisers import WEIGHTS, InTurns, Watch, moved, optimizer_steps, toy, toy_optimizer

BATCH = 12


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"rebuilder": 7, "critic": 7}),
        ({"start": 4}, {"rebuilder": 7, "critic": 3}),
        ({"start": 2, "every": 3, "offset": 1}, {"rebuilder": 7, "critic": 1}),
        ({"start": 9}, {"rebuilder": 7, "critic": 0}),
    ],
)
def test_a_run_takes_exactly_max_steps_and_each_optimiser_its_own(
    tmp_path: Path, settings: dict[str, int], expected: dict[str, int]
) -> None:
    module = toy(**settings)
    trainer = fit(module, tmp_path, 7)
    assert trainer.global_step == module.step == read_checkpoint(tmp_path)["step"] == 7
    assert optimizer_steps(tmp_path) == expected


def test_only_the_parts_of_the_turn_that_acts_move_and_only_its_terms_are_computed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, watch = InTurns(), Watch()
    terms = []

    class Terms(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            terms.append(list(pl_module.outcome.terms))

    fit(module, tmp_path, 4, more_callbacks=[watch, Terms()])
    assert [moved(a, b) for a, b in zip(watch.weights, watch.weights[1:], strict=False)] == [
        {"generator"},
        {"discriminator"},
    ] * 2
    assert terms == [["reconstruction", "l1", "gan"], ["hinge"]] * 2


class EveryFourth(Watch):
    """Has every fourth step logged."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        trainer.log_every_n_steps = 4


def test_a_log_holds_the_newest_number_of_each_turn_since_the_last(tmp_path: Path) -> None:
    """Every logged step is one of the discriminator."""
    every, fourth = Watch(), EveryFourth()
    for watch in (every, fourth):
        torch.manual_seed(0)
        fit(InTurns(), tmp_path / type(watch).__name__, 4, more_callbacks=[watch])
    assert fourth.logged[2] == {}
    for name in ("reconstruction", "gan", "lr/rebuilder", "grad_norm/rebuilder"):
        assert fourth.logged[3][f"train/{name}"] == every.logged[2][f"train/{name}"], name
    for name in ("loss", "hinge", "grad_norm", "grad_norm/critic"):
        assert fourth.logged[3][f"train/{name}"] == every.logged[3][f"train/{name}"], name


def test_turns_of_one_step_share_one_forward(tmp_path: Path) -> None:
    module = toy(adaptive=True, micro_batch_size=4)
    fit(module, tmp_path, 2)
    assert module.forwards == 2 * 3


def test_a_term_of_weight_0_is_not_computed(tmp_path: Path) -> None:
    watch = Watch()
    fit(toy(start=2), tmp_path, 3, more_callbacks=[watch])
    assert ["train/gan" in logged for logged in watch.logged] == [False, False, True]


def test_learning_rates_count_from_the_start_of_the_turn(tmp_path: Path) -> None:
    settings = {"warmup_steps": 2, "schedule": "cosine", "total_steps": 8}
    watch = Watch()
    fit(toy(optimizer=toy_optimizer(**settings), start=3), tmp_path, 8, more_callbacks=[watch])
    rates = [logged["train/lr/critic"] / 5e-3 for logged in watch.logged if "train/lr/critic" in logged]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.25])  # warm-up of 2, cosine of 3
    assert [logged["train/lr/rebuilder"] / 1e-2 for logged in watch.logged[:3]] == pytest.approx([0.5, 1.0, 1.0])


def test_validation_computes_every_term(tmp_path: Path) -> None:
    logged = fit(toy(start=100), tmp_path, 2, val_check_interval=2).callback_metrics
    expected = sum(weight * float(logged[f"val/{name}"]) for name, weight in WEIGHTS.items())
    assert float(logged["val/loss"]) == pytest.approx(expected, rel=1e-5)


def test_each_turn_and_group_is_clipped_by_itself(tmp_path: Path) -> None:
    groups = {"critic": OptimizerGroup(clip_norm=1e-3), "generator.0": OptimizerGroup(clip_norm=1e-2)}
    module = toy(optimizer=OptimizerConfig(clip_norm=1e-4, groups=groups))
    fit(module, tmp_path, 1)
    norms = {
        part: torch.cat([p.grad.flatten() for p in module.get_submodule(part).parameters()]).norm().item()
        for part in ("discriminator", "generator.0", "generator.2")
    }
    assert norms == pytest.approx({"discriminator": 1e-3, "generator.0": 1e-2, "generator.2": 1e-4}, rel=1e-3)
    logged = {name for name in module.trainer.callback_metrics if "grad_norm" in name}
    assert logged == {f"train/grad_norm{more}" for more in ("", "/rebuilder", "/critic", "/rebuilder/generator.0")}


def test_weights_that_leave_nothing_to_do_are_refused(tmp_path: Path) -> None:
    module = toy()
    module.weights_at = lambda step: dict.fromkeys(WEIGHTS, 0.0)
    with pytest.raises(ValueError, match=r"ToyGAN: in step 0 every term .* has weight 0"):
        fit(module, tmp_path, 1)


def test_weights_of_other_terms_are_refused(tmp_path: Path) -> None:
    module = toy()
    module.weights_at = lambda step: {"gan": 1.0}
    with pytest.raises(
        ValueError, match=r"weights_at\(0\): expected the weights of .*hinge.*, found those of \['gan'\]"
    ):
        fit(module, tmp_path, 1)


def test_a_bad_declaration_ends_the_fit_before_it_begins(tmp_path: Path) -> None:
    module = toy()
    module.turns = lambda: (Turn("rebuilder", ("generator",)), Turn("critic", ("generator.2",), ("hinge",)))
    with pytest.raises(ValueError, match=r"one turn to move parameter generator\.2\.weight"):
        fit(module, tmp_path, 1)


@pytest.mark.parametrize(("samples", "rate"), [(24, 1.08e-4), (8 * 24, 8.64e-4), (8, 3.6e-5)])
def test_a_scaled_rate_is_that_of_one_sample_times_the_global_batch(tmp_path: Path, samples: int, rate: float) -> None:
    """Rombach et al.'s for 4.5e-6: two accumulated batches of 12 on one GPU and on eight; and batches of 8."""
    watch, group = Watch(), OptimizerGroup(lr=9e-6)
    module = toy(optimizer=OptimizerConfig(lr=4.5e-6, lr_rule="scaled", groups={"critic": group}))
    fit(module, tmp_path, 1, data=ToyData(samples), more_callbacks=[watch])
    found = [watch.logged[0][f"train/lr/{turn}"] for turn in ("rebuilder", "critic")]
    assert found == pytest.approx([rate, 2 * rate])


def test_a_scaled_rate_without_a_global_batch_is_one_line(tmp_path: Path) -> None:
    loader = ToyStream(1, BATCH, 0, 1)
    with pytest.raises(ValueError, match=r"^optimizer\.lr_rule: 'scaled' needs data that say their global_batch_size"):
        fit(toy(optimizer=OptimizerConfig(lr_rule="scaled")), tmp_path, 1, data=loader)  # type: ignore[arg-type]
