"""Checkpoints of a run: when they are written, and which of them stay."""

import json
import math
import sys
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from mmig.checkpoint_files import checkpoint_path, checkpoints_in, remove, remove_leftovers, step_of
from mmig.checkpoint_writer import CheckpointWriteError, CheckpointWriter
from mmig.manifest import write_text_atomically


class RunCheckpoint(Checkpoint):
    """Writes `step-XXXXXXXX.ckpt` every N optimiser steps and at the end of the fit, beside the training.

    Lightning's ModelCheckpoint names files by epoch and metric and keeps versions of `last`; a run here has one
    axis, the step, and `--resume auto` takes the highest one. Where a checkpoint cannot be written, the run says so and
    goes on with the last good one kept; only at its end is that an error.

    Args:
        directory: folder of the checkpoints.
        every_n_steps: optimiser steps between two checkpoints.
        keep: number of newest checkpoints that stay on disk.
        keep_every_n_steps: checkpoints of steps that it divides stay for good; None: of no step.
        best: a logged value, such as "val/loss" or "eval/success". The checkpoint of its best value stays too, and is
            named in `best.json`; it is written when the value is, if it is better than all before.
        best_is: whether the smallest or the largest value is best.

    Attributes:
        manifest: plain values that every checkpoint holds under "manifest": settings, versions and so on.
    """

    def __init__(
        self,
        directory: str,
        every_n_steps: int = 1000,
        keep: int = 2,
        keep_every_n_steps: int | None = None,
        best: str | None = None,
        best_is: Literal["smallest", "largest"] = "smallest",
    ) -> None:
        for name, value in (
            ("every_n_steps", every_n_steps),
            ("keep", keep),
            ("keep_every_n_steps", keep_every_n_steps),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}")
        self.directory = Path(directory)
        self.every_n_steps = every_n_steps
        self.keep = keep
        self.keep_every_n_steps = keep_every_n_steps
        self.best = best
        self._sign = 1 if best_is == "smallest" else -1
        self.manifest: dict[str, Any] = {}
        self._saved: int | None = None
        self._writer: CheckpointWriter | None = None
        self._best_value = math.inf
        self._best_step: int | None = None
        self._due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Clear what a killed run has left half written, and remember what is there."""
        if trainer.is_global_zero and not trainer.fast_dev_run:
            remove_leftovers(self.directory)
        self._writer = CheckpointWriter(trainer, self._tidy)
        self._read_best(trainer)
        resumed = checkpoint_path(self.directory, pl_module.step).exists()
        self._saved = pl_module.step if trainer.strategy.broadcast(resumed) else None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where the step is due, or the best so far; a due step that was skipped waits for the next that is not.

        In a streak of skipped steps the weights may be what is wrong: a good checkpoint must not make room for them.
        """
        self._due = self._due or pl_module.step % self.every_n_steps == 0
        if (self._due and pl_module.outcome.taken) or self._improved(trainer, pl_module.step):
            self._due = False
            self.save(trainer, pl_module.step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the best so far."""
        if trainer.state.fn == TrainerFn.FITTING and self._improved(trainer, pl_module.step):
            self.save(trainer, pl_module.step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final state and wait for it.

        Raises:
            CheckpointWriteError: it could not be written.
        """
        self.save(trainer, pl_module.step)
        self.finish()
        self._writer.close()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the manifest into the checkpoint."""
        checkpoint["manifest"] = self.manifest

    def save(self, trainer: L.Trainer, step: int) -> Path:
        """Begin to write the checkpoint of `step`; does nothing where it is there, or in a fast_dev_run."""
        path = checkpoint_path(self.directory, step)
        if step == self._saved or trainer.fast_dev_run:
            return path
        problem = self._writer.wait()
        if problem is not None and trainer.is_global_zero:
            print(f"warning: checkpoint not written, {_advice(problem)}; the run goes on", file=sys.stderr, flush=True)  # noqa: T201, the log
        self._writer.start(path)
        self._saved = step
        return path

    def finish(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            CheckpointWriteError: it could not be written.
        """
        problem = self._writer.wait()
        if problem is not None:
            self._saved = None
            raise CheckpointWriteError(f"checkpoint not written, {_advice(problem)}")

    def _tidy(self, path: Path) -> None:
        """Delete what need not stay, now that a newer checkpoint is whole."""
        if self._best_step == step_of(path):
            best = {
                "step": self._best_step,
                "name": self.best,
                "value": self._sign * self._best_value,
                "file": path.name,
            }
            write_text_atomically(self.directory / "best.json", json.dumps(best))
        for old in checkpoints_in(self.directory)[: -self.keep]:
            kept = self.keep_every_n_steps is not None and step_of(old) % self.keep_every_n_steps == 0
            if not kept and step_of(old) != self._best_step:
                remove(old)

    def _improved(self, trainer: L.Trainer, step: int) -> bool:
        """Whether the watched value is there, and better than ever; the same on every rank, for the value is."""
        value = trainer.callback_metrics.get(self.best)
        if self.best is None or value is None:
            return False
        if not self._sign * float(value) < self._best_value:
            return False
        self._best_value, self._best_step = self._sign * float(value), step
        return True

    def _read_best(self, trainer: L.Trainer) -> None:
        file = self.directory / "best.json"
        found = json.loads(file.read_text()) if trainer.is_global_zero and file.exists() else None
        found = trainer.strategy.broadcast(found)
        if found is not None and found["name"] == self.best:
            self._best_value, self._best_step = self._sign * found["value"], found["step"]


def _advice(problem: str) -> str:
    return f"{problem}; the checkpoints before it are whole. Free some disk space, or make the folder writable"
