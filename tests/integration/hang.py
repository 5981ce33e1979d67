"""A rank that goes no further."""

import threading
from typing import Any

import lightning as L


class Hang(L.Callback):
    """Waits for ever on one rank before the step after `step`."""

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_rank == self.rank and pl_module.step == self.step:
            self.wait_for_ever()

    def wait_for_ever(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
