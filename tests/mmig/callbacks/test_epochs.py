"""Epochs of any data with a length, counted in steps. Of streams: tests/integration/test_run_length.py."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest

from mmig.callbacks.epochs import EpochsInSteps, batches_per_epoch
from mmig.callbacks.run_checkpoint import RunCheckpoint
from tests.mmig.evaluation.support import CopyModule, FewBatches

LENGTH = 10
"""Batches of `FewBatches` in an epoch."""


class Seen(L.Callback):
    """Notes the steps after which a validation came."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.steps.append(pl_module.step)


def fit(folder: Path, **settings: Any) -> tuple[L.Trainer, list[int]]:
    seen = Seen()
    options = {"max_steps": -1, "check_val_every_n_epoch": None, **settings}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    callbacks = [EpochsInSteps(), RunCheckpoint(str(folder)), seen]
    trainer = L.Trainer(accelerator="cpu", callbacks=callbacks, **quiet, **options)
    trainer.fit(CopyModule(), FewBatches())
    return trainer, seen.steps


def test_a_loader_that_begins_anew_each_epoch_is_counted_too(tmp_path: Path) -> None:
    trainer, validated = fit(tmp_path, max_epochs=3, check_val_every_n_epoch=2)
    assert trainer.max_steps == trainer.lightning_module.step == 3 * LENGTH
    assert validated == [2 * LENGTH]


def test_what_comes_first_ends_the_run(tmp_path: Path) -> None:
    assert fit(tmp_path / "steps", max_epochs=3, max_steps=4)[0].lightning_module.step == 4
    assert fit(tmp_path / "epochs", max_epochs=1, max_steps=40)[0].lightning_module.step == LENGTH


def test_a_dry_run_is_as_short_as_lightning_makes_it(tmp_path: Path) -> None:
    assert fit(tmp_path, max_epochs=3, fast_dev_run=2)[0].lightning_module.step == 2


def test_data_without_a_length_are_refused() -> None:
    assert batches_per_epoch([1, 2]) == 2
    with pytest.raises(ValueError, match=r"these data have no length; give trainer.max_steps"):
        batches_per_epoch(iter([1, 2]))
