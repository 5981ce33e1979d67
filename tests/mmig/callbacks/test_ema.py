"""The averaged weights."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from mmig.callbacks.ema import EMA, ema_decay
from mmig.callbacks.run_checkpoint import RunCheckpoint
from mmig.checkpoints.checkpoint import checkpoint_weights, read_checkpoint
from tests.toy import ToyData, ToyModule, ToyStream, fit
from tests.two_optimisers import ToyGAN


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


def average(trainer: L.Trainer) -> EMA:
    return next(callback for callback in trainer.callbacks if isinstance(callback, EMA))


def fit_averaged(module: ToyGAN, directory: Path, max_steps: int, ema: EMA, **settings: Any) -> L.Trainer:
    """`fit` with an average of choice in the place of its own."""
    trainer = L.Trainer(
        max_epochs=-1, max_steps=max_steps, accelerator="cpu", devices=1, logger=False, use_distributed_sampler=False,
        callbacks=[ema, RunCheckpoint(str(directory))], num_sanity_val_steps=0, check_val_every_n_epoch=None,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ToyData(), weights_only=True, **settings)
    return trainer


GENERATOR = {f"generator.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")}


def test_what_the_module_leaves_out_is_not_averaged_and_stays_as_trained(tmp_path: Path) -> None:
    module = ToyGAN()
    trainer = fit(module, tmp_path, 3)
    assert read_checkpoint(tmp_path)["ema"]["weights"].keys() == average(trainer).shadow.keys() == GENERATOR
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with average(trainer).averaged(module):
        changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == GENERATOR
    weights = checkpoint_weights(read_checkpoint(tmp_path), ema=True)
    assert all(torch.equal(weights[name], value) for name, value in before.items() if name not in GENERATOR)


def test_the_configuration_can_leave_out_more(tmp_path: Path) -> None:
    fit_averaged(ToyGAN(), tmp_path, 2, EMA(0.9, exclude=["generator.0", "generator.2.bias"]))
    assert read_checkpoint(tmp_path)["ema"]["weights"].keys() == {"generator.2.weight"}


def test_an_excluded_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ema\.exclude: no trained parameter in 'generato'; .* such as generator\.0"):
        fit_averaged(ToyGAN(), tmp_path, 1, EMA(0.9, exclude=["generato"]))


def test_everything_may_be_left_out(tmp_path: Path) -> None:
    trainer = fit_averaged(ToyGAN(), tmp_path, 2, EMA(0.9, exclude=["generator"]))
    assert average(trainer).shadow == {} and average(trainer).updates == 2


def test_swapped_is_what_was_averaged_also_where_it_trains_no_longer(tmp_path: Path) -> None:
    module = ToyModule()
    ema = average(fit(module, tmp_path, 3))
    before, shadow = module.net[0].weight.detach().clone(), ema.shadow["net.0.weight"].clone()
    with ema.averaged(module.requires_grad_(False)):
        assert torch.equal(module.net[0].weight, shadow) and not torch.equal(shadow, before)
    assert torch.equal(module.net[0].weight, before)


def test_a_resumed_run_averages_what_the_checkpoint_does(tmp_path: Path) -> None:
    fit_averaged(ToyGAN(), tmp_path, 2, EMA(0.9, exclude=["generator.0"]))
    trainer = fit_averaged(ToyGAN(), tmp_path, 3, EMA(0.9), ckpt_path=tmp_path / "step-00000002.ckpt")
    assert average(trainer).shadow.keys() == {"generator.2.weight", "generator.2.bias"}
    assert average(trainer).updates == 3
