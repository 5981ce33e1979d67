"""Which checkpoints stay, and which of them is called the best."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from mmig.callbacks.run_checkpoint import RunCheckpoint
from tests.toy import ToyModule, fit

VALUES = {2: 3.0, 4: 1.0, 6: 2.0, 8: 4.0, 10: 0.5}


class Value(L.Callback):
    """A value that is there after a step, as that of an evaluation is; `at_validation`: after a validation."""

    def __init__(self, at_validation: bool = False) -> None:
        self.at_validation = at_validation

    def _give(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pl_module.step in VALUES:
            trainer.callback_metrics["eval/x"] = torch.tensor(VALUES[pl_module.step])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if not self.at_validation:
            self._give(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.at_validation:
            self._give(trainer, pl_module)


def train(folder: Path, steps: int, at_validation: bool = False, resume: Path | None = None, **settings: Any) -> None:
    settings = {"every_n_steps": 2, "keep": 1, **settings}
    callbacks = [Value(at_validation), RunCheckpoint(str(folder), **settings)]
    # the one that `fit` adds writes elsewhere
    fit(
        ToyModule(), folder / "other", steps, resume, more_callbacks=callbacks, val_check_interval=2, devices=1,
    )  # fmt: skip


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.stem[5:]) for path in folder.glob("step-*.ckpt"))


def test_newest_and_every_so_manieth_stay(tmp_path: Path) -> None:
    train(tmp_path, 13, keep=2, keep_every_n_steps=6)
    assert steps_in(tmp_path) == [6, 12, 13]


@pytest.mark.parametrize("at_validation", [False, True])
def test_the_best_stays_and_is_named(tmp_path: Path, at_validation: bool) -> None:
    """At a validation the step has been saved before the value is there."""
    train(tmp_path, 8, at_validation, best="eval/x")
    assert steps_in(tmp_path) == [4, 8]
    best = json.loads((tmp_path / "best.json").read_text())
    assert best == {"step": 4, "name": "eval/x", "value": 1.0, "file": "step-00000004.ckpt"}


def test_largest_may_be_best(tmp_path: Path) -> None:
    train(tmp_path, 10, best="eval/x", best_is="largest")
    assert steps_in(tmp_path) == [8, 10] and json.loads((tmp_path / "best.json").read_text())["value"] == 4.0


def test_the_best_is_remembered_across_a_resume(tmp_path: Path) -> None:
    train(tmp_path, 6, best="eval/x")
    train(tmp_path, 8, best="eval/x", resume=tmp_path / "step-00000006.ckpt")
    assert steps_in(tmp_path) == [4, 8]
    train(tmp_path, 10, best="eval/x", resume=tmp_path / "step-00000008.ckpt")
    assert steps_in(tmp_path) == [10] and json.loads((tmp_path / "best.json").read_text())["step"] == 10


def test_a_better_one_that_cannot_be_written_does_not_cost_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with a file in it stands where the partial file of step 10 should be."""
    train(tmp_path, 9, best="eval/x")

    class InTheWay(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            (tmp_path / "step-00000010.partial" / "x").mkdir(parents=True, exist_ok=True)

    callbacks = [Value(), InTheWay(), RunCheckpoint(str(tmp_path), 2, 1, best="eval/x")]
    fit(ToyModule(), tmp_path / "other", 12, tmp_path / "step-00000009.ckpt", more_callbacks=callbacks)
    assert "step-00000010" in capsys.readouterr().err
    assert steps_in(tmp_path) == [4, 12] and json.loads((tmp_path / "best.json").read_text())["step"] == 4


def test_going_back_behind_later_checkpoints_deletes_no_newer_one(tmp_path: Path) -> None:
    """A broken later one must not count as one of the newest."""
    train(tmp_path, 4, keep=5)
    (tmp_path / "step-00000900.ckpt").write_bytes(b"broken")
    train(tmp_path, 8, keep=1, resume=tmp_path / "step-00000004.ckpt")
    assert steps_in(tmp_path) == [8, 900]
