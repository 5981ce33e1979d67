"""How long a run is: in epochs, with a callback that ends it, and that each of these ends is an end."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from mmig.checkpoints.checkpoint import find_checkpoint, read_checkpoint
from mmig.run.cli import main
from mmig.training.optim import OptimizerConfig
from tests.integration.losses import logged
from tests.integration.small_run import SmallEditor, write_data

STEPS = 8
"""Of an epoch: 64 samples in batches of 8."""


class StopAt(L.Callback):
    """Asks for the end of the run, as EarlyStopping does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.should_stop = pl_module.step >= self.step


class Scheduled(SmallEditor):
    """With a learning rate that knows how long the run is, and a seed."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.optimizer_config = OptimizerConfig(lr=1e-3, warmup_steps=2, schedule="cosine", total_steps=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("length")
    write_data(folder)
    data = {"train": str(folder / "train"), "val": str(folder / "val"), "global_batch_size": 8, "eval_batch_size": 16}
    config = {
        "model": {"class_path": f"{__name__}.Scheduled"},
        "data": {"class_path": "datamodules.shard_data.ShardData", "init_args": data},
        "trainer": {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, "enable_progress_bar": False},
        "checkpoint": {"every_n_steps": 5},
        "ema": {"decay": 0.9},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def fit(folder: Path, name: str, *options: str) -> Path:
    main(["fit", "--config", str(folder / "config.yaml"), "--runs", str(folder / "runs"), "--name", name, *options])
    return folder / "runs" / name


def stop_at(step: int) -> str:
    """The callback as a setting."""
    return f"[{{class_path: {__name__}.StopAt, init_args: {{step: {step}}}}}]"


def finished(run: Path) -> dict[str, Any]:
    facts = json.loads((run / "finished.json").read_text())
    return {name: facts[name] for name in ("step", "early")}


def same_end(one: Path, other: Path) -> bool:
    ours, theirs = (read_checkpoint(run) for run in (one, other))
    weights = ours["state_dict"]
    return ours["step"] == theirs["step"] and all(torch.equal(weights[n], theirs["state_dict"][n]) for n in weights)


@pytest.mark.parametrize(
    ("epochs", "steps", "end"), [("2", "-1", 2 * STEPS), ("1", "20", STEPS), ("3", "20", 20)], ids=str
)
def test_epochs_and_steps_end_at_what_comes_first(folder: Path, epochs: str, steps: str, end: int) -> None:
    run = fit(folder, f"{epochs}-{steps}", "--trainer.max_epochs", epochs, "--trainer.max_steps", steps)
    assert finished(run) == {"step": end, "early": False}
    assert find_checkpoint(run).name == f"step-{end:08d}.ckpt"


def test_a_run_in_epochs_is_the_run_of_as_many_steps(folder: Path) -> None:
    by_steps = fit(folder, "by-steps", "--trainer.max_steps", str(2 * STEPS))
    by_epochs = fit(folder, "by-epochs", "--trainer.max_epochs", "2")
    assert same_end(by_steps, by_epochs)
    assert logged(by_steps, "train/loss") == logged(by_epochs, "train/loss")


def test_epochs_go_on_where_they_were_interrupted_and_end_once(folder: Path) -> None:
    whole = fit(folder, "whole", "--trainer.max_epochs", "2")
    run = fit(folder, "resumed", "--trainer.max_epochs", "2", "--trainer.callbacks", stop_at(11))
    assert finished(run)["step"] == 11
    fit(folder, "resumed", "--trainer.max_epochs", "2")
    assert finished(run)["step"] == 2 * STEPS
    assert same_end(run, whole)
    before = logged(run, "train/loss")
    fit(folder, "resumed", "--trainer.max_epochs", "2")  # as a job that SLURM runs once more
    assert finished(run)["step"] == 2 * STEPS
    assert logged(run, "train/loss") == before


def test_validations_after_epochs_are_at_their_steps(folder: Path) -> None:
    run = fit(folder, "validated", "--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "2")
    by_steps = fit(folder, "validated-by-steps", "--trainer.max_steps=32", "--trainer.val_check_interval=16")
    assert len(logged(run, "val/loss")) == 2
    assert logged(run, "val/loss") == logged(by_steps, "val/loss")


def test_validation_before_the_first_step_changes_nothing(folder: Path) -> None:
    plain = fit(folder, "plain", "--trainer.max_steps", "4")
    best = ("--checkpoint.best", "val/loss")
    tried = fit(folder, "tried", "--trainer.max_steps", "4", "--trainer.num_sanity_val_steps", "2", *best)
    assert same_end(plain, tried)


def test_a_run_that_a_callback_ended_is_finished_and_stays_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--trainer.max_steps", "20", "--trainer.callbacks", stop_at(3))
    run = fit(folder, "stopped", *options)
    assert finished(run) == {"step": 3, "early": True}
    fit(folder, "stopped", *options)
    assert f"{run} is finished: a callback or max_time ended it after step 3" in capsys.readouterr().err
    assert find_checkpoint(run).name == "step-00000003.ckpt"
    fit(folder, "stopped", "--trainer.max_steps", "20")  # other settings are a wish to go on
    assert finished(run) == {"step": 20, "early": False}


def test_a_run_that_ran_out_of_its_time_is_finished(folder: Path) -> None:
    run = fit(folder, "timed", "--trainer.max_steps", "100000", "--trainer.max_time", "{seconds: 1}")
    assert finished(run)["early"] is True
    assert finished(run)["step"] == read_checkpoint(run)["step"]


def test_another_seed_is_another_order_and_other_noise(folder: Path) -> None:
    runs = [fit(folder, f"seed-{seed}", "--trainer.max_steps", "2", "--seed_everything", seed) for seed in ("0", "1")]
    first, second = (list(logged(run, "train/loss").values()) for run in runs)
    assert all(abs(a - b) > 1e-3 * a for a, b in zip(first, second, strict=True))
