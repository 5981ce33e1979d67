"""Training steps of any module as Lightning takes them, timed and counted: with all optimisers and the EMA."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from bench.tools.clock import Instant, now, since
from datamodules.schema import Batch
from mmig.callbacks.ema import EMA
from mmig.run.precision import suit_products
from mmig.training.module import TrainingModule


class TrainedSteps(L.Callback):
    """Times steps after some to warm up, and counts the operations of further ones, until each optimiser was due.

    Args:
        device: where they are taken.
        warm_up, steps: how many come before, and are timed.
        begin: called when the timed ones begin.
        counted: further steps that are counted; 0 counts none.

    Attributes:
        seconds: of all timed steps. peak: bytes that tensors took at most in them, None but on a GPU.
        operations: of a step, mean over those that were counted.
    """

    def __init__(
        self, device: torch.device, warm_up: int, steps: int, begin: Callable[[], None] = lambda: None, counted: int = 0
    ) -> None:
        self.device, self.first, self.last, self.begin, self.counted = device, warm_up, warm_up + steps, begin, counted
        self.seconds, self.operations = 0.0, 0.0
        self.peak: int | None = None
        self._start: Instant | None = None
        self._counter: FlopCounterMode | None = None

    @property
    def total(self) -> int:
        """All steps to be taken."""
        return self.last + self.counted

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to time, or to count."""
        on_gpu = self.device.type == "cuda"
        if batch_idx == self.first < self.last:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(self.device)
            self.begin()
            self._start = now(self.device)
        if batch_idx >= self.last:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say what was timed or counted."""
        if batch_idx == self.last - 1 and self._start is not None:
            self.seconds, _ = since(self._start, now(self.device))
            self.peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        self._end_counting()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """End to count, for what counts is the whole process."""
        self._end_counting()

    def _end_counting(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.operations += self._counter.get_total_flops() / self.counted
            self._counter = None


def take_steps(module: TrainingModule, batch: Batch, measured: TrainedSteps, precision: str) -> None:
    """Train a module on one batch, other noise each time, from the first step in which all optimisers may be due.

    Args:
        module: on the device of `measured`.
        batch: there too.
        measured: is filled in.
        precision: as of Lightning, such as "bf16-mixed".
    """
    module.step = max(turn.start for turn in module.turns())
    module.optimizer_config = replace(module.optimizer_config, lr_rule="absolute")  # the batch belongs to no data
    with warnings.catch_warnings(action="ignore"), quiet("lightning.pytorch", "lightning.fabric"):
        trainer = L.Trainer(
            accelerator="gpu" if measured.device.type == "cuda" else "cpu",
            devices=1,
            precision=precision,
            max_steps=module.step + measured.total,
            max_epochs=-1,
            logger=False,
            callbacks=[EMA(), measured],
            log_every_n_steps=measured.total + module.step + 1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        suit_products(trainer)
        trainer.fit(module, DataLoader(_Repeated(batch, measured.total), batch_size=None, collate_fn=_as_is))


def cycle_length(module: TrainingModule) -> int:
    """Steps after which the same optimisers are due again."""
    return math.lcm(*(turn.every for turn in module.turns()))


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """No hints of loggers inside the block."""
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


class _Repeated(Dataset[Batch]):
    """One batch at ever new positions."""

    def __init__(self, batch: Batch, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        rows = len(self.batch["key"])
        return self.batch | {"position": torch.arange(index * rows, (index + 1) * rows)}


def _as_is(batch: Batch) -> Batch:
    return batch
