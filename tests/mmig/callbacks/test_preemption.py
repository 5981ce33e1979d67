"""A signal to a training in this process; several ranks: tests/integration/test_preemption.py."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmig.callbacks.ema import EMA
from mmig.callbacks.evaluate import Evaluate
from mmig.callbacks.preemption import SIGNALS, Preempted, Preemption
from mmig.callbacks.run_checkpoint import RunCheckpoint
from mmig.evaluation.settings import ScoringSettings
from mmig.training.compat import without_lightning_signals
from mmig.training.optim import OptimizerConfig
from tests.mmig.evaluation.support import CopyModule, FewBatches


class SignalAt(L.Callback):
    """Signals its own process before the end of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.step == self.step - 1:
            os.kill(os.getpid(), signal.SIGUSR1)


def train(
    folder: Path,
    name: str,
    steps: int,
    *more: L.Callback,
    resume: Path | None = None,
    first: L.Callback | None = None,
) -> tuple[Preemption, L.Trainer]:
    preemption = Preemption()
    checkpoints = RunCheckpoint(str(folder / name))
    evaluate = Evaluate(3, num_samples=5, scoring=ScoringSettings(metrics=["l1_input"]))
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=TensorBoardLogger(folder, name=name, version="log"),
        callbacks=[*([first] if first else []), EMA(0.9), evaluate, *more, checkpoints, preemption],
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1,
    )
    try:
        module = CopyModule(OptimizerConfig(lr=0.05))
        without_lightning_signals(trainer).fit(module, FewBatches(), ckpt_path=resume, weights_only=True)
    finally:
        trainer.logger.finalize("success")
        preemption.release()
    return preemption, trainer


def evaluated(folder: Path, name: str) -> dict[int, float]:
    accumulator = EventAccumulator(str(folder / name / "log"))
    accumulator.Reload()
    return {event.step: event.value for event in accumulator.Scalars("eval/l1_input")}


def test_an_interrupted_evaluation_is_done_when_the_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    train(tmp_path, "whole", 3)
    with pytest.raises(Preempted) as end:
        train(tmp_path, "interrupted", 3 + 1, SignalAt(3))
    path = tmp_path / "interrupted" / "step-00000003.ckpt"
    assert end.value.message == f"SIGUSR1 after step 3: saved {path}; the same command continues from there"
    assert end.value.code == 138
    train(tmp_path, "interrupted", 4, resume=path)
    assert evaluated(tmp_path, "interrupted") == evaluated(tmp_path, "whole")
    assert list(evaluated(tmp_path, "whole")) == [0, 3]


class SignalBefore(L.Callback):
    """Signals its own process before the first step, when handlers are set."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)


def test_a_run_interrupted_in_its_first_evaluation_makes_up_for_it_where_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(Preempted):
        train(tmp_path, "interrupted", 4, first=SignalBefore())
    path = tmp_path / "interrupted" / "step-00000001.ckpt"
    train(tmp_path, "interrupted", 4, resume=path)
    assert list(evaluated(tmp_path, "interrupted")) == [1, 3]


def test_a_resumed_run_does_not_begin_with_an_evaluation(tmp_path: Path) -> None:
    train(tmp_path, "run", 2)
    shutil.rmtree(tmp_path / "run" / "log")
    train(tmp_path, "run", 4, resume=tmp_path / "run" / "step-00000002.ckpt")
    assert list(evaluated(tmp_path, "run")) == [3]


def test_the_last_step_is_not_interrupted_and_handlers_are_put_back(tmp_path: Path) -> None:
    def own(number: int, frame: Any) -> None:
        raise AssertionError("only the callback's handler may be called")

    before = {number: signal.signal(number, own) for number in SIGNALS}
    try:
        _, trainer = train(tmp_path, "last", 2, SignalAt(2))
        assert trainer.state.finished
        assert [signal.getsignal(number) for number in SIGNALS] == [own] * len(SIGNALS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
