"""Epochs as a number of steps, the only measure of a run."""

from typing import Any

import lightning as L


class EpochsInSteps(L.Callback):
    """Lets a training that is measured in epochs end, and validate, at the steps that these come to.

    `trainer.max_epochs` ends the run after so many whole passes over the data, beside `trainer.max_steps` at whatever
    comes first; `trainer.check_val_every_n_epoch` validates after every n of them. What is left to everything else, the
    schedule of the learning rate and a resume among it, is a run of so many steps.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Count, now that the data are known.

        Raises:
            ValueError: the data have no length.
        """
        epochs, interval = trainer.fit_loop.max_epochs, trainer.check_val_every_n_epoch
        if stage != "fit" or trainer.fast_dev_run or (epochs in (None, -1) and interval is None):
            return
        length = batches_per_epoch(trainer.datamodule.train_dataloader())
        if epochs not in (None, -1):
            steps = epochs * length
            trainer.fit_loop.epoch_loop.max_steps = steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)
            trainer.fit_loop.max_epochs = -1
        if interval is not None:
            trainer.check_val_every_n_epoch = None
            trainer.val_check_interval = interval * length


def batches_per_epoch(loader: Any) -> int:
    """Global batches of one pass over the training data.

    Raises:
        ValueError: they have no length.
    """
    try:
        length = getattr(loader, "batches_per_epoch", None)
        return len(loader) if length is None else length
    except TypeError as error:
        raise ValueError(
            "trainer.max_epochs, trainer.check_val_every_n_epoch: these data have no length; give trainer.max_steps "
            "and trainer.val_check_interval"
        ) from error
