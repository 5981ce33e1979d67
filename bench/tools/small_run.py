"""A small real training on two gloo ranks, for benches that interrupt it: its configuration, its start, its end.

Ranks are forks of the bench, which has imported everything: a start takes a second instead of the ten that imports take
on a busy machine. Apart from that each is what srun would start: a process that runs the command line of train.py.
"""

import atexit
import contextlib
import multiprocessing.util
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
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
from mmig.run.cli import main
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws

NUM_RANKS = 2


class SmallEditor(TrainingModule):
    """Predicts the target image from the source and a noised target; with dropout, which must resume exactly too."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__(OptimizerConfig(lr=1e-3, warmup_steps=5), {"denoise": 1.0})
        self.net = nn.Sequential(
            nn.Conv2d(6, channels, 3, padding=1), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(channels, 3, 3, padding=1)
        )

    def losses(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Squared error a sample."""
        noise = draws.normal("noise", batch["target"].shape[1:]).to(self.device)
        error = self.net(torch.cat([batch["source"], batch["target"] + noise], dim=1)) - batch["target"]
        return {"denoise": error.square().mean(dim=(1, 2, 3))}


class Told(L.Callback):
    """Tells the bench where the first rank is, a letter an event, and keeps every loss.

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
        if event == "open" and "/step-" in str(arguments[0]) and ".partial" in str(arguments[0]):
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

    def wait_for(self, event: bytes, count: int = 1) -> None:
        """Wait until an event, a letter of `Told`, has come so often."""
        while count:
            letter = os.read(self.told, 1)
            if not letter:
                raise RuntimeError(f"the run ended by itself: {self.log.read_text()[-500:]}")
            count -= letter == event

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


def wait_for_end(pids: list[int], seconds: float) -> list[int] | None:
    """Exit statuses of `fork_ranks` once no process of the group is left; None, and all are killed, if that is late."""
    deadline, left, statuses = time.monotonic() + seconds, list(pids), {}
    while left or _lives(pids[0]):
        if time.monotonic() > deadline:
            os.killpg(pids[0], signal.SIGKILL)
            for pid in left:
                os.waitpid(pid, 0)
            return None
        for pid in list(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                statuses[pid] = os.waitstatus_to_exitcode(status)
                left.remove(pid)
        time.sleep(0.005)
    return [statuses[pid] for pid in pids]


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def start(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    prepare: Callable[[], None] | None = None,
    num_ranks: int = NUM_RANKS,
    die_at_rename: int = 0,
) -> Running:
    """Start the ranks of run `name` in `folder`.

    Args:
        settings: options of train.py by name.
        prepare: called in each rank before it begins.
        num_ranks: how many.
        die_at_rename: see `Told`.
    """
    told, tell = os.pipe()
    config = _config(folder, name, {"descriptor": tell, "die_at_rename": die_at_rename}, num_ranks)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    options = [f"--{key}={value}" for key, value in settings.items()]
    arguments = ["fit", "--config", str(folder / f"{name}.yaml"), "--name", name, f"--runs={folder / 'runs'}", *options]
    log = folder / f"{name}.log"
    pids = fork_ranks(arguments, num_ranks, log, lambda: (os.close(told), prepare and prepare()))
    os.close(tell)
    return Running(pids, told, log)


def fork_ranks(arguments: list[str], num_ranks: int, log: Path, prepare: Callable[[], object] | None) -> list[int]:
    """Run a command line of train.py in so many forks, which are a process group; returns their process ids.

    Args:
        log: file to which all their output is added.
        prepare: called in each rank before it begins.
    """
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
    pids: list[int] = []
    for rank in range(num_ranks):
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(PermissionError):  # the bench may have done it already
                os.setpgid(0, pids[0] if pids else 0)
            _rank(arguments, {**environment, "LOCAL_RANK": str(rank)}, log, prepare)
        pids.append(pid)
        with contextlib.suppress(PermissionError, ProcessLookupError):  # the rank may have done it, or be gone already
            os.setpgid(pid, pids[0])
    return pids


def _rank(arguments: list[str], environment: dict[str, str], log: Path, prepare: Callable[[], object] | None) -> None:
    """Run train.py's command line in this fork and end as a program does; never returns."""
    status = 1
    atexit._clear()  # what the bench would do at its own end, such as removing folders, is not ours to do
    atexit.register(multiprocessing.util._exit_function)
    # torch makes its thread pool anew in a fork, without a lock: before there are other threads that would do it too
    torch.set_num_threads(torch.get_num_threads())
    try:
        os.environ.update(environment)
        sys.stdout = sys.stderr = file = log.open("a", buffering=1)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.argv = ["train.py", *arguments]
        if prepare is not None:
            prepare()
        main(arguments)
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001, it ends here
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(status)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _config(folder: Path, name: str, told: dict[str, Any], num_ranks: int) -> dict[str, Any]:
    told = {**told, "losses": str(folder / f"{name}.losses")}
    return {
        "model": {"class_path": "bench.tools.small_run.SmallEditor"},
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
            "max_steps": 40,
            "val_check_interval": 10,
            "log_every_n_steps": 1,
            "callbacks": [{"class_path": "bench.tools.small_run.Told", "init_args": told}],
        },
        "checkpoint": {"every_n_steps": 8},
        "ema": {"decay": 0.9},
    }
