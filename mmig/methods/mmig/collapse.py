"""Stops a run whose mutual support module has collapsed."""

from typing import Any

import lightning as L

from mmig.callbacks.stopping import stop_together


class CollapseError(ValueError):
    """Text and features were pulled to one constant: L_MMSM is small and means nothing."""


class CollapseGuard(L.Callback):
    """Watches the batch spread of pooled e3 and e2 (eq 13 alone drives both to a constant).

    Args:
        min_std: smallest healthy spread of either side.
        patience: readings in a row below it before the run stops.
    """

    def __init__(self, min_std: float = 1e-3, patience: int = 3) -> None:
        self.min_std = min_std
        self.patience = patience
        self.low = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the spreads at the steps that are logged and were taken.

        Raises:
            CollapseError: on the first rank, while the others end, where they stay low.
        """
        if pl_module.step % trainer.log_every_n_steps or not pl_module.outcome.taken:  # StepGuard counts those
            return
        spreads = {name: float(value) for name, value in pl_module.logged().items() if name.startswith("std_")}
        low = any(value < self.min_std for value in spreads.values())  # not where it is NaN, for want of two texts
        # all ranks stop together, or those that go on would wait for ever
        self.low = self.low + 1 if trainer.strategy.reduce_boolean_decision(low, all=False) else 0
        if self.low >= self.patience:
            listed = ", ".join(f"{name} {value:.2e}" for name, value in spreads.items())
            message = (
                f"MMSM has collapsed at step {pl_module.step}: {listed}, below {self.min_std:g} {self.low} times "
                "on some rank; keep the sdm loss on, lower the weight of mmsm, or raise the batch size"
            )
            stop_together(trainer, CollapseError(message))
