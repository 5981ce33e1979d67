"""Watches over the steps: those that had to be skipped, and losses that jump.

A step whose loss or gradient is not finite is not taken on any rank (`mmig/training/steps.py`); here such steps are
counted, written down with the keys of their samples, and end the run when there are too many in a row. A loss that
jumps is only said.
"""

import contextlib
import logging
from pathlib import Path
from typing import Any

import lightning as L

from mmig.callbacks.bad_steps import LossWindow, bad_step_row, blame, shown
from mmig.callbacks.row_file import RowFile
from mmig.callbacks.run_checkpoint import run_checkpoint
from mmig.callbacks.stopping import stop_together
from mmig.checkpoints.files import newest_in_words
from mmig.checkpoints.writer import CheckpointWriteError
from mmig.evaluation.rows import gather
from mmig.training.module import TrainingModule
from mmig.training.steps import StepOutcome

WARN_EVERY = 100
"""Steps after a warning in which no other of its kind follows; the counts go on."""
ALL_TERMS = ""
"""Window of the steps of a run that did not tell their terms apart."""
_log = logging.getLogger(__name__)


class BadStepsError(ValueError):
    """Too many steps in a row had no finite loss or gradient."""


class StepGuard(L.Callback):
    """Counts skipped steps and loss spikes, logs them, and stops a run that gets nowhere.

    `train/skipped_steps`, `train/skipped_in_a_row` and `train/spikes` go on across resumes. Every skipped step, and
    every spike that is warned of, is a row of `bad_steps.jsonl` with the keys of all ranks.

    Args:
        directory: folder of that file, the run's.
        max_skipped_in_a_row: skipped steps in a row at which the run stops on all ranks.
        spike_z: robust standard deviations, up or down, from which on a loss is called a spike.
        spike_window: losses that it is compared with, those of the last steps taken that had the same terms.
    """

    def __init__(
        self, directory: str, max_skipped_in_a_row: int = 5, spike_z: float = 8.0, spike_window: int = 200
    ) -> None:
        if max_skipped_in_a_row < 1 or spike_window < 2:
            raise ValueError(
                "guard: expected max_skipped_in_a_row of at least 1 and spike_window of at least 2, found "
                f"{max_skipped_in_a_row} and {spike_window}"
            )
        if not spike_z > 0:
            raise ValueError(f"guard.spike_z: expected a positive number, found {spike_z}")
        self.max_skipped_in_a_row = max_skipped_in_a_row
        self.spike_z = spike_z
        self.skipped = self.in_a_row = self.spikes = 0
        self.spike_window = spike_window
        self._windows: dict[str, LossWindow] = {}  # by the terms of the loss: other terms give another one
        self._file = RowFile(Path(directory) / "bad_steps.jsonl", "step")
        self._warned: dict[str, int] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judge the step; its outcome, and so all that follows, is the same on every rank.

        Raises:
            BadStepsError: on the first rank, while the others end, at the last step that is allowed to be skipped.
        """
        step, outcome = pl_module.step, pl_module.outcome
        if outcome.taken:
            self.in_a_row = 0
            self._watch_loss(trainer, step, outcome, batch["key"])
        else:
            self._count_skipped(trainer, pl_module, batch["key"])
        if step % trainer.log_every_n_steps == 0:
            counts = {"skipped_steps": self.skipped, "skipped_in_a_row": self.in_a_row, "spikes": self.spikes}
            self.log_dict({f"train/{name}": float(count) for name, count in counts.items()})

    def state_dict(self) -> dict[str, Any]:
        """Counts and windows, the same on every rank."""
        counts = {"skipped": self.skipped, "in_a_row": self.in_a_row, "spikes": self.spikes}
        return {**counts, "losses": {terms: list(window.losses) for terms, window in self._windows.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]
        self.spikes = state_dict["spikes"]
        losses = state_dict["losses"]
        if isinstance(losses, list):  # as it was before there were several optimisers, when steps had all terms
            losses = {ALL_TERMS: losses}
        self._windows = {terms: LossWindow(self.spike_window, values) for terms, values in losses.items()}

    def _count_skipped(self, trainer: L.Trainer, pl_module: TrainingModule, keys: list[str]) -> None:
        step, outcome = pl_module.step, pl_module.outcome
        self.skipped += 1
        self.in_a_row += 1
        keys_of_ranks = gather([keys])
        guilty = gather([[keys[row] for row in pl_module.rows_not_finite()]])
        facts = {"in_a_row": self.in_a_row, "keys_not_finite": guilty}
        self._record(trainer, bad_step_row("skipped", step, outcome, keys_of_ranks, **facts))
        finding = f"{blame(outcome)}; samples {shown(guilty if any(guilty) else keys_of_ranks)}"
        if self.in_a_row >= self.max_skipped_in_a_row:
            stop_together(trainer, BadStepsError(self._last_words(trainer, step, finding)))
        if trainer.is_global_zero and self._may_warn("skipped", step):
            _log.warning("step %d skipped: %s; %d skipped so far, see %s", step, finding, self.skipped, self._file.path)

    def _watch_loss(self, trainer: L.Trainer, step: int, outcome: StepOutcome, keys: list[str]) -> None:
        terms = " ".join(outcome.terms)
        if terms not in self._windows:
            self._windows[terms] = self._windows.pop(ALL_TERMS, LossWindow(self.spike_window))
        z = self._windows[terms].z_score(outcome.loss)
        self._windows[terms].add(outcome.loss)
        if abs(z) <= self.spike_z:
            return
        self.spikes += 1
        if not self._may_warn("spike", step):
            return
        keys_of_ranks = gather([keys])
        self._record(trainer, bad_step_row("spike", step, outcome, keys_of_ranks, z=z))
        if trainer.is_global_zero:
            _log.warning(
                "step %d: loss %.4g is a spike, %+.1f deviations off the last ones; samples %s; %d so far: %s",
                step, outcome.loss, z, shown(keys_of_ranks), self.spikes, self._file.path,
            )  # fmt: skip

    def _may_warn(self, kind: str, step: int) -> bool:
        """Whether a warning is due, which it then counts as given; the same on every rank."""
        last = self._warned.get(kind)
        if last is not None and step - last < WARN_EVERY:
            return False
        self._warned[kind] = step
        return True

    def _record(self, trainer: L.Trainer, row: dict[str, Any]) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self._file.add(row)

    def _last_words(self, trainer: L.Trainer, step: int, finding: str) -> str:
        first = step - self.in_a_row + 1
        return (
            f"steps {first} to {step} were skipped, as many in a row as guard.max_skipped_in_a_row allows: {finding}; "
            f"the keys of all ranks are in {self._file.path}. The weights are still those of step {first - 1}, the "
            f"last good checkpoint is {_last_good(trainer, first - 1)}. Look at these samples; the same command with a "
            "higher --guard.max_skipped_in_a_row goes on past them; where others fail too, start a new run from there "
            "(--init_from) with a lower learning rate or clip_norm"
        )


def _last_good(trainer: L.Trainer, step: int) -> str:
    """The newest checkpoint up to a step."""
    checkpoint = run_checkpoint(trainer)
    if checkpoint is None:
        return "none"
    with contextlib.suppress(CheckpointWriteError):  # then it is none of those that are there
        checkpoint.finish()
    return newest_in_words(checkpoint.directory, step)
