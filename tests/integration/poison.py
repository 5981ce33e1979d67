"""What makes a step go wrong, and a run in which that step is not done at all, to compare with."""

from typing import Any

import lightning as L

from mmig.training.steps import StepOutcome


class Poison(L.Callback):
    """Puts NaN into the target image of the samples at some positions, on whichever rank has them.

    Args:
        positions: places in the stream.
    """

    def __init__(self, positions: list[int]) -> None:
        self.positions = positions

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for row, position in enumerate(batch["position"].tolist()):
            if position in self.positions:
                batch["target"][row] = float("nan")


class LeaveOut(L.Callback):
    """Replaces the training step at some steps by nothing but the count.

    Args:
        steps: the first step is 1.
    """

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done = pl_module.training_step

        def training_step(batch: Any, batch_idx: int) -> None:
            if pl_module.step + 1 in self.steps:
                pl_module.outcome = StepOutcome(float("nan"), float("nan"))
                pl_module.count_step()
            else:
                done(batch, batch_idx)

        pl_module.training_step = training_step
