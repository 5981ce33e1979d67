"""A small real training on gloo ranks, for tests that interrupt it: its configuration, start, end, and what it came to.

`start` and `finish` give the command of a run, `difference` compares two that have ended.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from torch import Tensor, nn

from datamodules.schema import Batch
from datamodules.shards import write_shards
from datamodules.tinyworld.sample import make_sample
from mmig.checkpoints.checkpoint import read_checkpoint
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm
from tests.integration.forks import fork_ranks, wait_for_end

NUM_RANKS, NUM_STEPS = 2, 24
LIMIT = 10.0
"""Seconds from a signal to the end of the last process."""


class SmallEditor(TrainingModule):
    """Predicts the target image from the source and a noised target; with dropout, which must resume exactly too."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__(OptimizerConfig(lr=1e-3, warmup_steps=5), {"denoise": 1.0})
        self.net = nn.Sequential(
            nn.Conv2d(6, channels, 3, padding=1), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(channels, 3, 3, padding=1)
        )

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Squared error a sample."""
        noise = draws.normal("noise", batch["target"].shape[1:]).to(self.device)

        def squared() -> Tensor:
            error = self.net(torch.cat([batch["source"], batch["target"] + noise], dim=1)) - batch["target"]
            return error.square().mean(dim=(1, 2, 3))

        return {"denoise": LossTerm(torch.ones(len(batch["key"])), squared)}


class Told(L.Callback):
    """Tells the test where the first rank is, a letter an event, and keeps every loss.

    t: a step begins, v: a batch of a validation begins, s: a checkpoint is being taken, w: the writing thread has
    opened a file of one, r: it is about to give a checkpoint its name.

    Args:
        descriptor: of the pipe's end to write to.
        losses: file of the losses, a line a step.
        die_at_rename: the how-manieth checkpoint, from 1, does not get its name: the first rank kills itself then.
    """

    def __init__(self, descriptor: int, losses: str, die_at_rename: int = 0) -> None:
        self.descriptor, self.losses, self.die_at_rename = descriptor, losses, die_at_rename

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """See the files of checkpoints on the first rank."""
        if trainer.is_global_zero:
            sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        of_a_checkpoint = event == "open" and "/step-" in str(arguments[0]) and ".partial" in str(arguments[0])
        if of_a_checkpoint and arguments[2] & (os.O_WRONLY | os.O_RDWR):  # those that are read are removed
            os.write(self.descriptor, b"w")
        if event == "os.rename" and Path(arguments[1]).suffix == ".ckpt":
            os.write(self.descriptor, b"r")
            self.die_at_rename -= 1
            if self.die_at_rename == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def _tell(self, trainer: L.Trainer, letter: bytes) -> None:
        if trainer.is_global_zero:
            os.write(self.descriptor, letter)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A step begins."""
        self._tell(trainer, b"t")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is being written."""
        self._tell(trainer, b"s")

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch of a validation begins."""
        self._tell(trainer, b"v")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, to the last bit."""
        if trainer.is_global_zero:
            with Path(self.losses).open("a") as file:
                file.write(f"{pl_module.step} {pl_module.outcome.loss.hex()}\n")


def write_data(folder: Path) -> None:
    """Shards of the small world for training and validation."""
    for split, count in (("train", 64), ("val", 32)):
        samples = (make_sample(0, split, index, photographs=False) for index in range(count))
        write_shards(samples, folder / split, samples_per_shard=16)


@dataclass
class Running:
    """The ranks of a training: process ids, their common process group, and the pipe that tells where they are."""

    pids: list[int]
    told: int
    log: Path

    def reaches(self, event: bytes, count: int, seconds: float = 0.0) -> bool:
        """Wait until an event, a letter of `Told`, has come so often, and a bit more; False if the run ended before."""
        while count:
            letter = os.read(self.told, 1)
            if not letter:
                return False
            count -= letter == event
        until = time.monotonic() + seconds  # somewhere inside of what has begun, not always at its beginning
        while time.monotonic() < until:
            pass
        return True

    def wait_for(self, event: bytes, count: int = 1) -> None:
        """Wait until an event has come so often."""
        assert self.reaches(event, count), f"the run ended by itself: {self.log.read_text()[-500:]}"

    def signal(self, number: int, rank: int | None) -> None:
        """Signal one rank, or all processes of the run."""
        if rank is None:
            os.killpg(self.pids[0], number)
        else:
            os.kill(self.pids[rank], number)

    def wait(self, seconds: float) -> list[int] | None:
        """Exit statuses of the ranks once no process of the run is left; None, and all are killed, if that is late."""
        return wait_for_end(self.pids, seconds)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.told)


def start(
    folder: Path, name: str, settings: dict[str, Any], num_ranks: int = NUM_RANKS, die_at_rename: int = 0
) -> Running:
    """Start the ranks of run `name` in `folder`.

    Args:
        settings: options of train.py by name.
        num_ranks: how many.
        die_at_rename: see `Told`.
    """
    told, tell = os.pipe()
    config = _config(folder, name, {"descriptor": tell, "die_at_rename": die_at_rename}, num_ranks)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    options = [f"--{key}={value}" for key, value in settings.items()]
    arguments = ["fit", "--config", str(folder / f"{name}.yaml"), "--name", name, f"--runs={folder / 'runs'}", *options]
    log = folder / f"{name}.log"
    pids = fork_ranks(arguments, num_ranks, log, lambda: os.close(told))
    os.close(tell)
    return Running(pids, told, log)


def finish(folder: Path, name: str, settings: dict[str, Any] | None = None, num_ranks: int = NUM_RANKS) -> str:
    """Give the command of run `name` until its end; what went wrong, if anything."""
    running = start(folder, name, settings or {}, num_ranks)
    statuses = running.wait(300)
    running.close()
    return "" if statuses == [0] * num_ranks else f"ended with {statuses}: {running.log.read_text()[-1000:]}"


def difference(folder: Path, name: str, whole: str = "whole", tolerance: float = 0.0) -> str:
    """The first thing in which two finished runs differ by more than a relative tolerance; empty if there is none."""
    ours, theirs = result(folder, name), result(folder, whole)
    assert ours.keys() == theirs.keys()
    return next((f"{part} differs" for part in theirs if not same(ours[part], theirs[part], tolerance)), "")


def result(folder: Path, name: str) -> dict[str, Any]:
    """Losses and last checkpoint of a finished run."""
    losses = dict(line.split() for line in (folder / f"{name}.losses").read_text().splitlines())
    last = read_checkpoint(folder / "runs" / name)
    parts = {part: last[part] for part in ("step", "state_dict", "ema", "optimizer_states")}
    return {"losses": {int(step): float.fromhex(loss) for step, loss in losses.items()}, **parts}


def same(left: Any, right: Any, tolerance: float = 0.0) -> bool:
    """Whether two nests of tensors and values are equal, numbers to a part of the largest of their tensor."""
    if isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key], tolerance) for key in right)
    if isinstance(right, list | tuple):
        return len(left) == len(right) and all(same(a, b, tolerance) for a, b in zip(left, right, strict=True))
    if isinstance(right, torch.Tensor):
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        a, b = left.double(), right.double()
        return torch.equal(left, right) or bool((a - b).abs().max() <= tolerance * b.abs().max())
    if isinstance(right, float):
        return abs(left - right) <= tolerance * abs(right)
    return left == right


def _config(folder: Path, name: str, told: dict[str, Any], num_ranks: int) -> dict[str, Any]:
    told = {**told, "losses": str(folder / f"{name}.losses")}
    return {
        "model": {"class_path": "tests.integration.small_run.SmallEditor"},
        "data": {
            "class_path": "datamodules.shard_data.ShardData",
            "init_args": {
                "train": str(folder / "train"),
                "val": str(folder / "val"),
                "global_batch_size": 8,
                "eval_batch_size": 2,
                "num_workers": 1,
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": num_ranks,
            "strategy": "ddp" if num_ranks > 1 else "auto",
            "max_steps": NUM_STEPS,
            "val_check_interval": 10,
            "log_every_n_steps": 1,
            "callbacks": [{"class_path": "tests.integration.small_run.Told", "init_args": told}],
        },
        "checkpoint": {"every_n_steps": 8},
        "ema": {"decay": 0.9},
    }
