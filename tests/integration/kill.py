"""Ends the process that trains, the hard way, at a step of choice."""

import os
import signal
from typing import Any

import lightning as L


class KillAtStep(L.Callback):
    """Sends SIGKILL to its own process in the middle of the step after `step`.

    Args:
        step: the last step that is completed.
        where: "forward" kills before the next batch is used, "save" while the checkpoint is being written.
    """

    def __init__(self, step: int, where: str = "forward") -> None:
        self.step, self.where = step, where

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.where == "forward" and pl_module.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.where == "save" and pl_module.step == self.step:
            directory = trainer.checkpoint_callback.directory
            (directory / f"step-{self.step:08d}.partial").write_bytes(b"half a checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
