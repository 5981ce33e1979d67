"""Checkpoints of a run: when they are written, and which of them stay."""

import json
import math
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from mmig.base.files import write_json
from mmig.callbacks.stopping import stop_together
from mmig.checkpoints.files import checkpoint_path, checkpoints_in, remove, remove_leftovers, step_of
from mmig.checkpoints.writer import CheckpointWriteError, CheckpointWriter


class Best(NamedTuple):
    """The checkpoint of the best value.

    Attributes:
        step: of the checkpoint. value: smaller is better.
    """

    step: int
    value: float


class RunCheckpoint(Checkpoint):
    """Writes `step-XXXXXXXX.ckpt` every N steps and at the end of the fit, beside the training.

    Lightning's ModelCheckpoint names files by epoch and metric and keeps versions of `last`; a run here has one
    axis, the step, and `--resume auto` takes the highest one. Where a checkpoint cannot be written, the run says so and
    goes on with the last good one kept; only at its end is that an error.

    Args:
        directory: folder of the checkpoints.
        every_n_steps: steps between two checkpoints.
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
        self._best: Best | None = None  # on disk
        self._candidate: Best | None = None  # being written
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
        best = self._better(trainer, pl_module.step)
        if best is not None or (self._due and pl_module.outcome.taken):
            self._due = False
            self.save(trainer, pl_module.step, best)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the best so far."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        best = self._better(trainer, pl_module.step)
        if best is not None:
            self.save(trainer, pl_module.step, best)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the final state and wait for it.

        Raises:
            CheckpointWriteError: it could not be written; on the first rank, the others end quietly.
        """
        self.save(trainer, pl_module.step)
        try:
            self.finish()
        except CheckpointWriteError as error:
            stop_together(trainer, error)
        self._writer.close()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the manifest into the checkpoint."""
        checkpoint["manifest"] = self.manifest

    def save(self, trainer: L.Trainer, step: int, best: Best | None = None) -> Path:
        """Begin to write the checkpoint of `step`; does nothing where it is there, or in a fast_dev_run.

        Args:
            trainer: the run's.
            step: the present one.
            best: the value for which this checkpoint is to be kept, if it is.
        """
        path = checkpoint_path(self.directory, step)
        if trainer.fast_dev_run or (step == self._saved and best is None):
            return path
        problem = self._settle()
        if problem is not None and trainer.is_global_zero:
            print(f"warning: {_advice(problem)}; the run goes on", file=sys.stderr, flush=True)  # noqa: T201, the log
        self._candidate = best
        if step == self._saved and problem is None:
            self._writer.written_before(path)
        else:
            self._writer.start(path)
        self._saved = step
        return path

    def finish(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            CheckpointWriteError: it could not be written.
        """
        problem = self._settle()
        if problem is not None:
            self._saved = None
            raise CheckpointWriteError(_advice(problem))

    def _settle(self) -> str | None:
        """Wait for what is being written; what went wrong, the same on every rank, or None."""
        problem = self._writer.wait()
        if problem is None:
            self._best = self._candidate or self._best
        self._candidate = None
        return problem

    def _tidy(self, path: Path) -> None:
        """Delete what need not stay, now that a newer checkpoint is whole; runs in the writing thread."""
        best = self._best
        if self._candidate is not None:
            best = self._candidate
            facts = {"step": best.step, "name": self.best, "value": self._sign * best.value, "file": path.name}
            write_json(self.directory / "best.json", facts)
        # later ones are of a time before this run went back: one that is broken must not displace a whole one
        older = [old for old in checkpoints_in(self.directory) if step_of(old) <= step_of(path)]
        for old in older[: -self.keep]:
            step = step_of(old)
            kept = self.keep_every_n_steps is not None and step % self.keep_every_n_steps == 0
            if not kept and (best is None or step != best.step):
                remove(old)

    def _better(self, trainer: L.Trainer, step: int) -> Best | None:
        """The watched value, if it is there and better than ever; the same on every rank, for the value is."""
        value = None if self.best is None else trainer.callback_metrics.get(self.best)
        if value is None:
            return None
        ever = self._candidate or self._best
        found = Best(step, self._sign * float(value))
        return found if found.value < (math.inf if ever is None else ever.value) else None

    def _read_best(self, trainer: L.Trainer) -> None:
        file = self.directory / "best.json"
        found = json.loads(file.read_text()) if trainer.is_global_zero and file.exists() else None
        found = trainer.strategy.broadcast(found)
        if found is not None and found["name"] == self.best:
            self._best = Best(found["step"], self._sign * found["value"])


def run_checkpoint(trainer: L.Trainer) -> RunCheckpoint | None:
    """The callback that saves a run; None where nothing is saved, as in a fast_dev_run."""
    found = (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint))
    return None if trainer.fast_dev_run else next(found, None)


def _advice(problem: str) -> str:
    return (
        f"checkpoint not saved, {problem}; the checkpoints before it are whole. Free some disk space, or make the "
        "folder writable"
    )
