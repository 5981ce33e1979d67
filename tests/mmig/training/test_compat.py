"""Lightning's own handling of signals is off; these tests fail where a version brings it back."""

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment

from mmig.callbacks.run_checkpoint import RunCheckpoint
from mmig.training.compat import without_lightning_signals
from tests.toy import ToyData, ToyModule

NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Watching(L.Callback):
    """Writes down the handlers in force while training, and the collective operations of each rank's third step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        handlers = [str(signal.getsignal(number)) for number in NUMBERS]
        (self.folder / f"handlers{trainer.global_rank}").write_text("\n".join(handlers))
        if trainer.world_size > 1:
            torch._C._distributed_c10d._reset_fr_trace()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.world_size > 1 and batch_idx == 2:  # what has happened since the second step's end
            dump = pickle.loads(torch._C._distributed_c10d._dump_fr_trace())
            names = [entry["profiling_name"] for entry in dump["entries"]]
            (self.folder / f"collectives{trainer.global_rank}").write_text("\n".join(names))


def train(folder: Path, devices: int = 1, off: bool = True, **settings: Any) -> None:
    trainer = L.Trainer(
        max_steps=3,
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        callbacks=[Watching(folder), RunCheckpoint(str(folder))],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        **settings,
    )
    (without_lightning_signals(trainer) if off else trainer).fit(ToyModule(), ToyData())


def test_no_handler_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [str(signal.getsignal(number)) for number in NUMBERS]
    for name, value in {
        "JOB_ID": "1",
        "NTASKS": "1",
        "NNODES": "1",
        "LOCALID": "0",
        "PROCID": "0",
        "NODEID": "0",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    train(tmp_path, plugins=[SLURMEnvironment()], num_nodes=1)
    assert (tmp_path / "handlers0").read_text().split("\n") == before


def test_no_rank_asks_for_a_signal_before_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", "100")
    train(tmp_path, devices=2)
    for rank in range(2):
        assert (tmp_path / f"collectives{rank}").read_text() == ""


def test_the_tests_above_would_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", "100")
    train(tmp_path, devices=2, off=False)
    assert (tmp_path / "collectives1").read_text() == "gloo:broadcast"
    assert "_HandlersCompose" in (tmp_path / "handlers1").read_text()
    assert os.environ.get("LOCAL_RANK") is None  # the ranks were forks; this process is as it was
