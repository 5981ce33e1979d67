"""Validations that a resumed run still owes."""

import lightning as L

from mmig.training.compat import run_validation


class OverdueValidation(L.Callback):
    """Validates at once where a run continues from a step at which a validation is due.

    A step is saved before it is validated, so that of a run that ended in between, however it ended, only the
    checkpoint is left. Where the validation had been finished it gives the same values again.
    """

    def __init__(self) -> None:
        self._resumed = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note whether this is a resume."""
        self._resumed = trainer.ckpt_path is not None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate before the first step; no batch of the training stream has been taken yet."""
        resumed, self._resumed = self._resumed, False
        interval = trainer.val_check_interval
        by_steps = isinstance(interval, int) and trainer.check_val_every_n_epoch is None
        if resumed and by_steps and pl_module.step % interval == 0 and trainer.enable_validation:
            run_validation(trainer)
