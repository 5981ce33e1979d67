"""Progress bar that counts optimiser steps of the run, across resumes."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme


class StepProgressBar(RichProgressBar):
    """Lightning's rich bar without epochs: a run is one long row of optimiser steps."""

    def __init__(self) -> None:
        super().__init__(leave=True, theme=RichProgressBarTheme(metrics_format=".4f"))

    @property
    def total_train_batches(self) -> int | float:
        """Optimiser steps of the whole run."""
        return self.trainer.max_steps if self.trainer.max_steps > 0 else super().total_train_batches

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the step that the run has reached, not the batches since the last resume."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, pl_module.step - 1)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Losses; Lightning's version number of the log folder says nothing here."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"
