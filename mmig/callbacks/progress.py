"""Progress in steps of the run, across resumes: a bar on a terminal, now and then a line in a log file."""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

REDRAW_SECONDS = 0.1
"""A terminal takes milliseconds to draw the bar, and nobody reads faster."""


def progress(stream: TextIO | None = None) -> L.Callback:
    """The callback that suits where the output goes (default: standard output)."""
    return StepProgressBar() if (stream or sys.stdout).isatty() else StepProgressLines()


class StepProgressBar(RichProgressBar):
    """Lightning's rich bar without epochs: a run is one long row of steps."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(leave=True, theme=RichProgressBarTheme(metrics_format=".4f"))
        self.clock = clock
        self._drawn = float("-inf")

    @property
    def total_train_batches(self) -> int | float:
        """Steps of the whole run."""
        return self.trainer.max_steps if self.trainer.max_steps > 0 else super().total_train_batches

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the step that the run has reached, not the batches since the last resume; at most every 0.1 s."""
        now = self.clock()
        if now - self._drawn < REDRAW_SECONDS and pl_module.step < self.total_train_batches:
            return
        self._drawn = now
        super().on_train_batch_end(trainer, pl_module, outputs, batch, pl_module.step - 1)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Losses; Lightning's version number of the log folder says nothing here."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"


class StepProgressLines(L.Callback):
    """A line at the first step, at the last, and in between at most every `interval` seconds, on the first rank.

    Args:
        interval: in seconds.
        clock: what time it is, in seconds.
    """

    def __init__(self, interval: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval = interval
        self.clock = clock
        self._start = self._last = 0.0
        self._steps = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock; what was done before a resume does not count for the speed."""
        self._start = self.clock()
        self._last = self._start - self.interval
        self._steps = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print where the run is, if it is time."""
        self._steps += 1
        now, total = self.clock(), trainer.max_steps
        step = int(pl_module.step)
        if not trainer.is_global_zero or (now - self._last < self.interval and step != total):
            return
        self._last = now
        pace = (now - self._start) / self._steps
        losses = [f"{name} {float(value):.4f}" for name, value in trainer.progress_bar_metrics.items()]
        left = [f"{_duration(pace * (total - step))} left"] if total > step else []
        of = f" of {total}" if total > 0 else ""
        print("  ".join([f"step {step}{of}", *losses, f"{pace:.3g} s a step", *left]), flush=True)  # noqa: T201, the log


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
