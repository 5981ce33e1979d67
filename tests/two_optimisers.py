"""An adversarial module small enough to train in a test: two optimisers, a computed weight, terms that begin later.

It trains on the batches of `tests.toy`, with its `fit` too.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from mmig.checkpoints.checkpoint import read_checkpoint
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig, OptimizerGroup
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm
from mmig.training.turns import ComputedWeight, Turn
from tests.toy import NUM_FEATURES

LAST = "generator.2.weight"
"""What the computed weight compares gradients by."""
WEIGHTS = {"reconstruction": 1.0, "l1": 0.5, "gan": 0.5, "hinge": 1.0}


def toy_optimizer(**settings: Any) -> OptimizerConfig:
    """Settings with a group for the discriminator, which is addressed by its turn's name."""
    group = OptimizerGroup(lr=5e-3, betas=(0.5, 0.9), clip_norm=0.5)
    return OptimizerConfig(**{"lr": 1e-2, "groups": {"critic": group}, **settings})


class ToyGAN(TrainingModule):
    """Rebuilds noised inputs through a narrow layer; a discriminator tells what is rebuilt from what is real.

    Every third sample has no "l1" target. The "gan" term is computed from the discriminator's answers to what was
    rebuilt, and "hinge" from the same answers: only the turns keep the gradients apart.

    Args:
        optimizer: settings of both.
        adaptive: the weight of "gan" is computed.
        start: first step of the discriminator and of "gan".
        every, offset: in which steps the discriminator is due.
        dropout: in the generator.
        settings: of `TrainingModule`.
    """

    not_averaged = ("discriminator",)

    def __init__(
        self,
        optimizer: OptimizerConfig | None = None,
        adaptive: bool = False,
        start: int = 0,
        every: int = 1,
        offset: int = 0,
        dropout: float = 0.0,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer or toy_optimizer(), dict(WEIGHTS), seed, micro_batch_size)
        self.adaptive, self.start, self.every, self.offset = adaptive, start, every, offset
        self.generator = nn.Sequential(nn.Linear(NUM_FEATURES, 2), nn.Dropout(dropout), nn.Linear(2, NUM_FEATURES))
        self.discriminator = nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.Tanh(), nn.Linear(8, 1))
        self.forwards = 0

    def turns(self) -> tuple[Turn, ...]:
        weights = {"gan": ComputedWeight(LAST)} if self.adaptive else {}
        return (
            Turn("rebuilder", losses=("reconstruction", "l1", "gan"), computed_weights=weights),
            Turn("critic", ("discriminator",), ("hinge",), start=self.start, every=self.every, offset=self.offset),
        )

    def weights_at(self, step: int) -> Mapping[str, float]:
        return self.loss_weights | ({"gan": 0.0} if step < self.start else {})

    def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
        inputs = batch["inputs"]
        rebuilt = cache(lambda: self.rebuild(inputs, draws))
        answers = cache(lambda: self.discriminator(rebuilt()).squeeze(1))
        everyone = torch.ones(len(inputs))

        def hinge() -> Tensor:
            return (1 - self.discriminator(inputs).squeeze(1)).relu() + (1 + answers()).relu()

        return {
            "reconstruction": LossTerm(everyone, lambda: (rebuilt() - inputs).square().mean(1)),
            "l1": LossTerm(batch["position"] % 3 != 0, lambda: (rebuilt() - inputs).abs().mean(1)),
            "gan": LossTerm(everyone, lambda: -answers()),
            "hinge": LossTerm(everyone, hinge),
        }

    def rebuild(self, inputs: Tensor, draws: Draws) -> Tensor:
        """Noised inputs through the generator, [B,features]."""
        self.forwards += 1
        return self.generator(inputs + 0.1 * draws.normal("noise", (NUM_FEATURES,)).to(self.device))


class InTurns(ToyGAN):
    """Generator in even steps, discriminator in odd ones."""

    def turns(self) -> tuple[Turn, ...]:
        return Turn("rebuilder", every=2), Turn("critic", ("discriminator",), ("hinge",), every=2, offset=1)


def toy(**settings: Any) -> ToyGAN:
    torch.manual_seed(0)
    return ToyGAN(**settings)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Parts of which a weight has changed."""
    return {name.partition(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}


def assert_close(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-5, atol=1e-6)


class Watch(L.Callback):
    """Weights before the first step and after each; the logged numbers of each step, as a line of a file."""

    def __init__(self, file: Path | None = None) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.logged: list[dict[str, float]] = []
        self.file = file

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.weights.append(weights(pl_module))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.weights.append(weights(pl_module))
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        if self.file is not None and trainer.is_global_zero:
            with self.file.open("a") as file:
                file.write(json.dumps(self.logged[-1]) + "\n")


def optimizer_steps(directory: Path) -> dict[str, float]:
    """Steps that each optimiser has taken, by the name of its turn."""
    states = {state["turn"]: state["state"] for state in read_checkpoint(directory)["optimizer_states"]}
    counts = {turn: {float(own["step"]) for own in state.values()} for turn, state in states.items()}
    return {turn: found.pop() if found else 0.0 for turn, found in counts.items() if len(found) < 2}
