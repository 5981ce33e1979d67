"""Ends a run that hangs, with a stack trace of every rank."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L

from mmig.callbacks.stack_traces import StackTraces

STATUS = 124
"""Exit status of a rank that was given up; timeout(1) has the same."""
INTERVAL = 1.0
"""Seconds between two looks at the clock."""


class Watchdog(L.Callback):
    """Gives a run up in which some rank goes no further.

    Ranks wait for each other in every step, so that one that hangs is soon followed by all others; each of them
    writes its stack trace to `directory`, has its neighbours on the host do the same, those that were stopped too, and
    ends. What has started the ranks (srun --kill-on-bad-exit, torchrun, Lightning) ends those on other hosts.

    Args:
        directory: where stack traces go.
        step_seconds: longest time between two steps, saving included.
        evaluation_seconds: longest time for one batch of a validation or evaluation, and for the end of the run.
        start_seconds: longest time to the end of the first step, compilation included.
        grace_seconds: longest time for the reports of a host's ranks.

    Raises:
        ValueError: a time that is not positive.
    """

    def __init__(
        self,
        directory: str,
        step_seconds: float = 900.0,
        evaluation_seconds: float = 1800.0,
        start_seconds: float = 3600.0,
        grace_seconds: float = 20.0,
    ) -> None:
        times = {"step": step_seconds, "evaluation": evaluation_seconds, "start": start_seconds}
        for name, seconds in times.items():
            if not seconds > 0:
                raise ValueError(f"watchdog.{name}_seconds: expected more than 0 (.inf: no limit), found {seconds}")
        self.directory, self.grace_seconds = Path(directory), grace_seconds
        self.step_seconds, self.evaluation_seconds, self.start_seconds = times.values()
        self._alarm = Alarm(self._give_up)
        self._traces: StackTraces | None = None
        self._module: Any = None
        self._next_step = self.start_seconds

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Watch over the start of a training."""
        if stage == "fit" and not trainer.fast_dev_run:
            self._module = pl_module
            self._traces = StackTraces(self.directory, trainer.global_rank, self.grace_seconds)
            self._set(self.start_seconds)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Learn where the other ranks run."""
        if self._traces is not None:
            self._traces.meet()
        self._next_step = self.start_seconds
        self._set(self._next_step)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The next step is due; what a run evaluates before its first one is done."""
        self._set(self._next_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step is done."""
        self._next_step = self.step_seconds
        self._set(self._next_step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A validation begins."""
        self._set(self.evaluation_seconds)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A batch of a validation is done."""
        self._set(self.evaluation_seconds)

    def between_batches(self) -> bool:
        """A batch of an evaluation is done; it is to go on."""
        self._set(self.evaluation_seconds)
        return False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The next step is due; after a validation that a resumed run begins with it is the first."""
        self._set(self._next_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What is left is to save."""
        self._set(self.evaluation_seconds)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Watch no longer."""
        self._alarm.cancel()
        if self._traces is not None:
            self._traces.close()
            self._traces = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Watch no longer: this rank ends, and the other ranks watch themselves."""
        self.teardown(trainer, pl_module, "fit")

    def _set(self, seconds: float) -> None:
        if self._traces is not None:
            self._alarm.set(seconds)

    def _give_up(self, seconds: float) -> None:
        """Runs in the alarm's thread; the one that trains may be stuck for ever, so nothing else is cleaned up."""
        traces = self._traces
        if traces is None:
            return
        reason = f"rank {traces.rank}: nothing has moved for {seconds:g} s after step {self._module.step}"
        sys.stderr.write(f"{reason}; the run is given up, stack traces of its ranks are in {self.directory}\n")
        try:
            traces.report(reason)
        except Exception:  # noqa: BLE001, whatever it is, the process must end
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(STATUS)


class Alarm:
    """Calls `ring` from a thread of its own when the time that was set has run out. Setting it costs nothing.

    Time in which the process itself was stopped (as `scontrol suspend` does) does not count.

    Args:
        ring: called once, with the number of seconds that have run out.
        clock: what time it is, in seconds.
    """

    def __init__(self, ring: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._ring, self._clock = ring, clock
        self._seconds = self._deadline = 0.0
        self._off = threading.Event()
        self._thread: threading.Thread | None = None

    def set(self, seconds: float) -> None:
        """Go off in so many seconds from now."""
        self._seconds, self._deadline = seconds, self._clock() + seconds
        if self._thread is None:
            self._off.clear()
            self._thread = threading.Thread(target=self._watch, args=(self._off,), daemon=True, name="alarm")
            self._thread.start()

    def cancel(self) -> None:
        """Never go off, unless it is set again."""
        self._off.set()
        self._thread, self._off = None, threading.Event()

    def _watch(self, off: threading.Event) -> None:
        before = self._clock()
        while not off.wait(min(INTERVAL, max(self._deadline - before, 0.0))):
            now = self._clock()
            if now - before > 2 * INTERVAL:  # this process was stopped
                self._deadline += now - before
            before = now
            if now >= self._deadline:
                self._ring(self._seconds)
                return


def flight_recorder(directory: Path) -> dict[str, str]:
    """Environment in which torch remembers the last 2,000 collectives and, when NCCL times out, writes them down.

    train.py sets it before ranks meet, where the environment has no other values. Read the files with
    `python -m torch.distributed.flight_recorder.fr_trace`.

    Args:
        directory: of the files, one a rank: `ncclN`.
    """
    return {
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_FR_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_DUMP_TEMP_FILE": str(directory / "nccl"),
    }
