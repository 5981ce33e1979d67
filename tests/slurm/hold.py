"""Holds a training at a step until a signal arrives, so that a test decides where a run is interrupted."""

import os
import select
import signal
from pathlib import Path
from typing import Any

import lightning as L


class HoldAtStep(L.Callback):
    """Waits before the step after `step`, in the first attempt of a job only.

    Args:
        step: the last step that is completed before.
        folder: `holding-RANK` is left there by each rank that waits.
        seconds: how long to wait before giving up.
    """

    def __init__(self, step: int, folder: Path, seconds: float = 240.0) -> None:
        self.step, self.folder, self.seconds = step, folder, seconds

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.step != self.step or os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
            return
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        before = signal.set_wakeup_fd(theirs)  # whichever thread gets the signal
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"holding-{trainer.global_rank}").touch()
        arrived = select.select([ours], [], [], self.seconds)[0]
        signal.set_wakeup_fd(before)
        if not arrived:
            raise TimeoutError(f"no signal in {self.seconds} s")
