"""Ends a run that was sent a signal: all ranks save together, the job is requeued once, nothing is lost.

Handlers only set a flag. Ranks agree between two steps, or between two batches of a validation or evaluation, so that a
signal to any one of them is enough. docs/reliability.md says what each signal does and how a process then ends.
"""

import signal
import sys
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from mmig.callbacks.ema import trained_weights
from mmig.callbacks.interrupts import InterruptWatch
from mmig.callbacks.requeue import Requeue, requeue_job
from mmig.callbacks.run_checkpoint import run_checkpoint
from mmig.checkpoints.files import newest_in_words
from mmig.training.agreement import Agreement
from mmig.training.compat import kill_launched, log_step

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
"""SLURM's end of a job, its warning before (--signal), submitit's, and Ctrl-C."""


class Preempted(SystemExit):
    """A signal ended the run, on all ranks together.

    Attributes:
        message: what happened and how it goes on, in one line; empty on ranks that have nothing to add.
        code: exit status of this process.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(code)
        self.message = message


class Interrupted(Preempted):
    """SIGINT ended this rank where it had nothing to save."""


class Preemption(Checkpoint):
    """Obeys SIGTERM, SIGUSR1, SIGUSR2 and SIGINT from the first step on; a second SIGINT ends at once.

    A `Checkpoint` only in that Lightning calls those after all other callbacks, when a step is done with.

    Args:
        requeue: put the SLURM job that this process is part of, if any, back into the queue.
    """

    def __init__(self, requeue: bool = True) -> None:
        self.requeue = requeue
        self._received = self._agreed = 0
        self._agreement: Agreement | None = None
        self._previous: dict[int, Any] = {}
        self._watch: InterruptWatch | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over; before, they end a process that has nothing to lose in the ordinary way."""
        self._received = self._agreed = 0
        self._agreement = Agreement()
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        first = trainer.is_global_zero
        self._watch = InterruptWatch(lambda: first and _tell_first(), lambda: _tell_second(trainer))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = self._received or number

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the run here if any rank was signalled; after the last step it is about to end anyhow."""
        if self.between_batches() and not 0 < trainer.max_steps <= pl_module.step:
            log_step(trainer)  # the loop will not come to it
            self._end(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End the run in the middle of a validation; it is done again after the resume."""
        if trainer.state.fn == TrainerFn.FITTING and self.between_batches():
            self._end(trainer)

    def between_batches(self) -> bool:
        """Whether any rank was signalled; to be asked by all ranks at the same places."""
        if self._agreement is not None and not self._agreed:
            self._agreed = self._agreement(self._received)
        return bool(self._agreed)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Put the previous handlers back."""
        self.release()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Put the previous handlers back, but not after a signal: SLURM sends more of them, and the end is near."""
        if not isinstance(exception, Preempted):
            self.release()

    def release(self) -> None:
        """Put the previous handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._watch is not None:
            self._watch.close()
        self._previous, self._agreement, self._watch = {}, None, None

    def _end(self, trainer: L.Trainer) -> None:
        """Save together, requeue on the first rank, raise Preempted on all."""
        name, step = signal.Signals(self._agreed).name, trainer.lightning_module.step
        saved, failed = self._save(trainer, step)
        again = Requeue(False, "")
        if trainer.is_global_zero:
            wanted = self.requeue and self._agreed != signal.SIGINT  # whoever presses Ctrl-C wants an end
            again = requeue_job() if wanted else Requeue(False, "the same command continues from there")
        if not failed and self._agreement is not None:
            self._agreement.wait()  # or SLURM might end the first rank, for another's end, before it has requeued
        # the other ranks end well: what started them would else kill the first one before it has said its last line
        first = trainer.is_global_zero
        code = 1 if failed else 128 + self._agreed if first and not again.done else 0
        raise Preempted(f"{name} after step {step}: {saved}; {again.text}" if first or failed else "", code)

    def _save(self, trainer: L.Trainer, step: int) -> tuple[str, bool]:
        """Save on all ranks together; what came of it, and whether it failed on this one."""
        checkpoint = run_checkpoint(trainer)
        if checkpoint is None:
            return "nothing is saved in this run", False
        try:
            with trained_weights(trainer):
                path = checkpoint.save(trainer, step)
                checkpoint.finish()
        except Exception as error:  # noqa: BLE001, whatever it is, the job must still be requeued
            reason = (str(error) or type(error).__name__).splitlines()[0]
            return f"saving failed ({reason}), the last checkpoint is {newest_in_words(checkpoint.directory)}", True
        return f"saved {path}", False


def _tell_first() -> None:
    """Tell whoever sits there that the signal was heard, for a step may take long; a log has the last line."""
    if sys.stderr.isatty():
        sys.stderr.write("\nCtrl-C: saving after this step; once more ends at once, without saving\n")
        sys.stderr.flush()


def _tell_second(trainer: L.Trainer) -> None:
    """Say what is left, and end the ranks that this process has started."""
    checkpoint = run_checkpoint(trainer)
    if trainer.is_global_zero:
        last = "none" if checkpoint is None else newest_in_words(checkpoint.directory)
        sys.stderr.write(f"SIGINT again: ended at once, nothing more is saved; the last checkpoint is {last}\n")
    kill_launched(trainer)
