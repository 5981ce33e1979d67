"""The averaged weights."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from mmig.callbacks.ema import EMA, ema_decay
from mmig.checkpoints.checkpoint import read_checkpoint
from tests.toy import ToyModule, ToyStream, fit


def test_decay_warms_up() -> None:
    assert [round(ema_decay(0.9999, n), 4) for n in (1, 10, 100, 1000)] == [0.1818, 0.55, 0.9182, 0.9911]
    assert ema_decay(0.5, 100) == 0.5


def test_average_follows_its_formula(tmp_path: Path) -> None:
    class Record(L.Callback):
        def __init__(self) -> None:
            self.weights: list[torch.Tensor] = []

        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.weights.append(pl_module.net[0].weight.detach().clone())

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            self.weights.append(pl_module.net[0].weight.detach().clone())

    record = Record()
    fit(ToyModule(), tmp_path, 6, more_callbacks=[record])
    expected = record.weights[0]
    for number, weight in enumerate(record.weights[1:], 1):
        decay = min(0.9, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(read_checkpoint(tmp_path)["ema"]["weights"]["net.0.weight"], expected)


def test_averaged_block_gives_the_weights_back(tmp_path: Path) -> None:
    module = ToyModule()
    trainer = fit(module, tmp_path, 3)
    ema = next(callback for callback in trainer.callbacks if isinstance(callback, EMA))
    before, average = module.net[0].weight.detach().clone(), ema.shadow["net.0.weight"].clone()
    with ema.averaged(module), ema.averaged(module):
        assert torch.equal(module.net[0].weight, average)
    assert torch.equal(module.net[0].weight, before)
    assert torch.equal(ema.shadow["net.0.weight"], average)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_whatever_is_measured_has_the_average(tmp_path: Path, command: str) -> None:
    class Watched(ToyModule):
        def _seen(self, batch: Any, batch_idx: int) -> None:
            self.seen = self.net[0].weight.detach().clone()

        validation_step = test_step = predict_step = _seen

    fit(ToyModule(), tmp_path, 3)
    trainer = L.Trainer(accelerator="cpu", devices=1, callbacks=[EMA(0.9)], logger=False, enable_progress_bar=False)
    module, loader = Watched(), ToyStream(1, 4, 0, 1)
    getattr(trainer, command)(module, loader, ckpt_path=tmp_path / "step-00000003.ckpt", weights_only=True)
    checkpoint = read_checkpoint(tmp_path)
    assert torch.equal(module.seen, checkpoint["ema"]["weights"]["net.0.weight"])
    assert torch.equal(module.net[0].weight, checkpoint["state_dict"]["net.0.weight"])


def test_impossible_decay_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found 1\.5"):
        EMA(1.5)
