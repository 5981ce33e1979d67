"""Gradients of two turns stay apart, and computed weights are those of the global batch, on any number of ranks."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmig.checkpoints.checkpoint import read_checkpoint
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm
from mmig.training.turns import ComputedWeight, Turn
from tests.toy import ToyStream, fit
from tests.two_optimisers import LAST, WEIGHTS, InTurns, ToyGAN, Watch, assert_close, toy, toy_optimizer, weights

BATCH = 12


def batches(num_steps: int) -> Iterator[tuple[dict[str, Any], Draws]]:
    for batch in islice(ToyStream(100, BATCH, 0, 1), num_steps):
        yield batch, Draws(0, batch["position"])


def loop_by_hand(module: ToyGAN, num_steps: int, start: int) -> None:
    """Two optimisers of plain torch."""
    own = list(module.generator.parameters()), list(module.discriminator.parameters())
    optimizers = [
        torch.optim.AdamW(own[0], lr=1e-2, weight_decay=0.0),
        torch.optim.AdamW(own[1], lr=5e-3, betas=(0.5, 0.9), weight_decay=0.0),
    ]
    for step, (batch, draws) in enumerate(batches(num_steps)):
        terms = {name: term.values for name, term in module.losses(batch, draws).items()}
        counted = batch["position"] % 3 != 0
        first = terms["reconstruction"].mean() + 0.5 * terms["l1"][counted].mean()
        if step >= start:
            first = first + 0.5 * terms["gan"].mean()
        gradients = [
            torch.autograd.grad(first, own[0], retain_graph=True),
            torch.autograd.grad(terms["hinge"].mean(), own[1]),
        ]
        for number in (0, 1) if step >= start else (0,):
            for parameter, gradient in zip(own[number], gradients[number], strict=True):
                parameter.grad = gradient
            nn.utils.clip_grad_norm_(own[number], (1.0, 0.5)[number])
            optimizers[number].step()


@pytest.mark.parametrize("micro_batch_size", [None, 5])
def test_steps_are_those_of_a_loop_by_hand(tmp_path: Path, micro_batch_size: int | None) -> None:
    by_hand, module = toy(), toy(optimizer=toy_optimizer(weight_decay=0.0), start=3, micro_batch_size=micro_batch_size)
    loop_by_hand(by_hand, 10, start=3)
    fit(module, tmp_path, 10)
    assert_close(weights(module), weights(by_hand))


def test_a_nan_slope_in_one_turns_loss_stays_out_of_the_other_turns_gradient(tmp_path: Path) -> None:
    """A loss that is 0 beside an infinite slope: zeros that run through it would come out as NaN."""

    class Steep(InTurns):
        def turns(self) -> tuple[Turn, ...]:
            return Turn("rebuilder"), Turn("critic", ("discriminator",), ("hinge",))

        def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
            terms = super().losses(batch, draws)
            hinge, rec = terms["hinge"], terms["reconstruction"]

            def steep() -> Tensor:
                return hinge.values + (0 * rec.values).sqrt()  # has no slope by the discriminator

            return terms | {"hinge": LossTerm(hinge.counts, steep)}

    torch.manual_seed(0)
    module, plain = Steep(), toy()
    fit(module, tmp_path / "steep", 3)
    fit(plain, tmp_path / "plain", 3)
    assert_close(weights(module), weights(plain))


def test_a_parameter_that_no_term_reaches_has_the_gradient_0(tmp_path: Path) -> None:
    class Unused(ToyGAN):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.spare = nn.Linear(2, 2)

    module = Unused(optimizer=toy_optimizer(weight_decay=0.5))
    before = weights(module)
    fit(module, tmp_path, 1)
    after = weights(module)
    torch.testing.assert_close(after["spare.weight"], before["spare.weight"] * (1 - 1e-2 * 0.5))
    assert torch.equal(after["spare.bias"], before["spare.bias"])


class Penalised(ToyGAN):
    """With the penalty R1 (Mescheder et al. 2018) in every second step, twice as heavy, as StyleGAN2 has it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.loss_weights = {**WEIGHTS, "r1": 0.3}

    def turns(self) -> tuple[Turn, ...]:
        return Turn("rebuilder"), Turn("critic", ("discriminator",), ("hinge", "r1"))

    def weights_at(self, step: int) -> dict[str, float]:
        return self.loss_weights | {"r1": 0.0 if step % 2 else 2 * 0.3}

    def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
        return super().losses(batch, draws) | {"r1": LossTerm(torch.ones(len(batch["key"])), lambda: self.r1(batch))}

    def r1(self, batch: Any) -> Tensor:
        real = batch["inputs"].clone().requires_grad_()
        [slope] = torch.autograd.grad(self.discriminator(real).sum(), real, create_graph=True)
        return slope.square().sum(1)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_penalty_of_gradients_now_and_then_is_that_of_a_loop_by_hand(tmp_path: Path, devices: int) -> None:
    torch.manual_seed(0)
    module, by_hand = Penalised(optimizer=OptimizerConfig(lr=0.1, weight_decay=0.0)), toy()
    by_hand.load_state_dict(module.state_dict())
    own = list(by_hand.discriminator.parameters())
    optimizer = torch.optim.AdamW(own, lr=0.1, weight_decay=0.0)
    for step, (batch, draws) in enumerate(batches(2)):
        if step == 1:  # the generator's own steps are tested above
            by_hand.generator.load_state_dict(first_step(tmp_path, module.state_dict()))
        loss = by_hand.losses(batch, draws)["hinge"].values.mean()
        if step == 0:
            loss = loss + 2 * 0.3 * Penalised.r1(by_hand, batch).mean()
        for parameter, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
    fit(module, tmp_path / "run", 2, devices=devices)
    end = read_checkpoint(tmp_path / "run")["state_dict"]
    assert_close(
        {name: end[f"discriminator.{name}"] for name in weights(by_hand.discriminator)}, weights(by_hand.discriminator)
    )


def first_step(folder: Path, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """The generator after one step."""
    module = Penalised(optimizer=OptimizerConfig(lr=0.1, weight_decay=0.0))
    module.load_state_dict(start)
    fit(module, folder / "first", 1)
    return weights(module.generator)


def computed_by_hand(module: ToyGAN, hinge: float = 0.0) -> float:
    """Eq 7 on the whole batch; `hinge` is the weight of that term in the turn."""
    [(batch, draws)] = batches(1)
    terms = {name: term.values for name, term in module.losses(batch, draws).items()}
    parameter, counted = module.generator[2].weight, batch["position"] % 3 != 0
    others = terms["reconstruction"].mean() + 0.5 * terms["l1"][counted].mean() + hinge * terms["hinge"].mean()
    [g] = torch.autograd.grad(others, parameter, retain_graph=True)
    [h] = torch.autograd.grad(terms["gan"].mean(), parameter)
    return float(0.5 * g.norm() / (h.norm() + 1e-4))


@pytest.mark.parametrize("micro_batch_size", [None, 5, 1])
def test_the_computed_weight_is_that_of_the_whole_batch(tmp_path: Path, micro_batch_size: int | None) -> None:
    module = toy(adaptive=True, micro_batch_size=micro_batch_size)
    expected = computed_by_hand(module)
    logged = fit(module, tmp_path, 1).callback_metrics
    assert float(logged["train/weight/gan"]) == pytest.approx(expected, rel=1e-4)
    total = {name: float(logged[f"train/{name}"]) for name in WEIGHTS}
    assert float(logged["train/loss"]) == pytest.approx(
        total["reconstruction"] + 0.5 * total["l1"] + expected * total["gan"] + total["hinge"], rel=1e-4
    )


def test_the_computed_weight_multiplies_the_whole_gradient_of_its_term(tmp_path: Path) -> None:
    """A module that has the number as a fixed weight takes the same step."""
    adaptive, fixed = toy(adaptive=True), toy()
    fixed.loss_weights["gan"] = computed_by_hand(fixed)
    fit(adaptive, tmp_path / "adaptive", 1)
    fit(fixed, tmp_path / "fixed", 1)
    assert_close(weights(adaptive), weights(fixed))


def test_a_single_turn_can_have_a_computed_weight(tmp_path: Path) -> None:
    class Single(ToyGAN):
        def turns(self) -> tuple[Turn, ...]:
            return (Turn(computed_weights={"gan": ComputedWeight(LAST)}),)

    torch.manual_seed(0)
    module = Single(optimizer=OptimizerConfig())
    expected = computed_by_hand(module, hinge=1.0)
    logged = fit(module, tmp_path, 1).callback_metrics
    assert float(logged["train/weight/gan"]) == pytest.approx(expected, rel=1e-4)
    assert {"train/lr", "train/grad_norm"} <= logged.keys()


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_two_ranks_take_the_steps_of_one(tmp_path: Path, micro_batch_size: int | None) -> None:
    numbers = []
    for devices in (1, 2):
        file = tmp_path / f"{devices}.jsonl"
        module = toy(adaptive=True, start=2, micro_batch_size=micro_batch_size if devices == 2 else None)
        fit(module, tmp_path / str(devices), 6, devices=devices, more_callbacks=[Watch(file)])
        numbers.append([json.loads(line) for line in file.read_text().splitlines()])
    ends = [read_checkpoint(tmp_path / str(devices)) for devices in (1, 2)]
    assert_close(*(end["state_dict"] for end in ends))
    assert_close(*(end["ema"]["weights"] for end in ends))
    for one, two in zip(*numbers, strict=True):
        assert one == pytest.approx(two, rel=1e-4)
    assert "train/weight/gan" in numbers[0][2] and "train/weight/gan" not in numbers[0][1]


class PartlyBlind(ToyGAN):
    """Uses its spare layer for samples of the second rank only."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.spare = nn.Linear(3, 3)

    def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
        terms = super().losses(batch, draws)
        hit, l1 = batch["position"] % BATCH >= BATCH // 2, terms["l1"]
        if not hit.any():
            return terms
        return terms | {"l1": LossTerm(l1.counts, lambda: l1.values + hit * self.spare(batch["inputs"]).abs().mean(1))}


def test_ranks_agree_on_parameters_that_only_one_of_them_uses(tmp_path: Path) -> None:
    for devices in (1, 2):
        torch.manual_seed(0)
        fit(PartlyBlind(), tmp_path / str(devices), 3, devices=devices)
    assert_close(*(read_checkpoint(tmp_path / str(devices))["state_dict"] for devices in (1, 2)))
