"""Ends a process that trains, the hard way, at a place of choice."""

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L

WRITTEN_AT_MOST = 5_000
"""Bytes of a checkpoint's file that a process may write which is to die inside of it."""


class KillAtStep(L.Callback):
    """Has one rank die at once and without a word, in the step after `step` or in the saving of it.

    Args:
        step: the last step that is completed.
        where: "forward": before the next batch is used. "validation": before its second batch. "copy": while the state
            is copied to host memory. "write": in the writing thread, when a part of a file is on disk (SIGXFSZ, which
            ends a process as SIGKILL does). "rename": in the writing thread, when all is written and has no name yet.
        rank: who dies.
    """

    def __init__(self, step: int, where: str = "forward", rank: int = 0) -> None:
        self.step, self.where, self.rank = step, where, rank
        self._now = self._mine = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._mine = trainer.global_rank == self.rank
        if self._mine and self.where in ("write", "rename"):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
            sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        name = f"step-{self.step:08d}.partial"
        if event == "open" and self.where == "write" and name in str(arguments[0]) and "w" in str(arguments[1]):
            resource.setrlimit(resource.RLIMIT_FSIZE, (WRITTEN_AT_MOST, WRITTEN_AT_MOST))
        if event == "os.rename" and self.where == "rename" and Path(arguments[0]).name == name:
            self._die()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.where == "forward" and pl_module.step == self.step:
            self._die()

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.where == "validation" and pl_module.step == self.step and batch_idx == 1:
            self._die()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.where == "copy" and pl_module.step == self.step:
            self._die()

    def _die(self) -> None:
        if self._mine:
            os.kill(os.getpid(), signal.SIGKILL)
