"""Checkpoints of a run: whole or not there, the newest few kept."""

import os
import re
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

_NAME = re.compile(r"step-(\d{8})\.ckpt")


def checkpoints_in(directory: Path) -> list[Path]:
    """Finished checkpoints of a directory, oldest step first."""
    return sorted(path for path in directory.glob("step-*.ckpt") if _NAME.fullmatch(path.name))


class RunCheckpoint(Checkpoint):
    """Writes `step-XXXXXXXX.ckpt` every N optimiser steps and at the end of the fit.

    Lightning's ModelCheckpoint names files by epoch and metric and keeps versions of `last`; a run here has one
    axis, the step, and `--resume auto` takes the highest one.

    Args:
        directory: folder of the checkpoints.
        every_n_steps: optimiser steps between two checkpoints.
        keep: number of newest checkpoints that stay on disk.
    """

    def __init__(self, directory: str, every_n_steps: int = 1000, keep: int = 2) -> None:
        if every_n_steps < 1 or keep < 1:
            raise ValueError(f"every_n_steps and keep must be at least 1, found {every_n_steps} and {keep}")
        self.directory = Path(directory)
        self.every_n_steps = every_n_steps
        self.keep = keep

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where the step is due."""
        if pl_module.step % self.every_n_steps == 0:
            self.save(trainer, pl_module.step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final state."""
        self.save(trainer, pl_module.step)

    def save(self, trainer: L.Trainer, step: int) -> Path:
        """Write the checkpoint of `step` aside and rename it; does nothing where it is there, or in a fast_dev_run."""
        path = self.directory / f"step-{step:08d}.ckpt"
        if path.exists() or trainer.fast_dev_run:
            return path
        partial = path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            os.replace(partial, path)
            for old in checkpoints_in(self.directory)[: -self.keep]:
                old.unlink()
        trainer.strategy.barrier("RunCheckpoint.save")
        return path

    def finish(self) -> None:
        """Wait until everything that was saved is on disk."""
