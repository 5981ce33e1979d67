"""Training steps of two kinds on the same batches: a loop written by hand, and whatever a trainer makes of a module.

They alternate step by step: the trainer's loader runs the hand-written loop's step before it gives a batch away. Both
sides of a pair therefore see the same load of the machine, the same batch and the same draws.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice, repeat
from typing import Protocol

import torch
from torch import nn

from bench.tools.clock import Instant, Pairs, now, since
from datamodules.schema import Batch, collate
from datamodules.tinyworld.sample import make_sample
from mmig.callbacks.ema import ema_decay
from mmig.training.module import TrainingModule
from mmig.training.optim import build_optimizer, lr_factor, parameters_by_group
from mmig.training.rng import Draws


class Loop(Protocol):
    """Training steps that somebody else takes."""

    @property
    def device(self) -> torch.device:
        """Where they are taken."""

    def step(self, batch: Batch) -> None:
        """Take one, on this batch or on data of its own."""


class BareLoop:
    """The loop that one would write by hand: the module's losses, clipping, AdamW, and an average of the weights.

    Args:
        module: whose losses and settings it takes; it is trained.
        total_steps: end of its learning-rate schedule.
        decay: largest decay of the average.
        autocast: makes the context in which the losses are computed.
    """

    def __init__(
        self,
        module: TrainingModule,
        total_steps: int,
        decay: float = 0.9999,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.module, self.total_steps, self.decay, self.autocast = module, total_steps, decay, autocast
        self.optimizer = build_optimizer(module.named_parameters(), module.optimizer_config)
        self.groups = parameters_by_group(module.named_parameters(), module.optimizer_config)
        self.weights = [parameter.detach() for members in self.groups.values() for parameter in members]
        self.averages = [weight.clone() for weight in self.weights]
        self.taken = 0

    @property
    def device(self) -> torch.device:
        """The module's."""
        return self.module.device

    def step(self, batch: Batch) -> None:
        """Take one step on a batch."""
        module, config = self.module, self.module.optimizer_config
        batch = module.transfer_batch_to_device(batch, module.device, 0)
        factor = lr_factor(config, self.taken, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.zero_grad()
        draws = Draws(module.seed, batch["position"])
        with self.autocast():
            terms = module.losses(batch, draws)
            means = [
                weight * (terms[name].values * terms[name].counts).sum() / terms[name].counts.sum().clamp(min=1e-12)
                for name, weight in module.loss_weights.items()
            ]
        torch.stack(means).sum().backward()
        for prefix, members in self.groups.items():
            clip = config.group(prefix).clip_norm
            if clip is not None:
                nn.utils.clip_grad_norm_(members, clip, foreach=True)
        self.optimizer.step()
        self.taken += 1
        torch._foreach_lerp_(self.averages, self.weights, 1 - ema_decay(self.decay, self.taken))


class Alternating:
    """A trainer's loader that runs the hand-written loop's step before each batch, and times both.

    Args:
        batches: given endlessly, `warm_up + steps` in all; where they are a stream, the trainer's time is that of
            reading them too.
        loop: the other side.
        steps: that count. warm_up: that come first and do not.
    """

    def __init__(self, batches: Iterable[Batch], loop: Loop, steps: int, warm_up: int) -> None:
        self.batches, self.loop, self.warm_up = batches, loop, warm_up
        self.length = warm_up + steps
        self._bare: list[Instant] = []
        self._trainer: list[Instant] = []

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        given: Instant | None = None
        endless = chain.from_iterable(iter(self.batches) for _ in repeat(None))
        for batch in islice(endless, self.length):
            asked = now(self.loop.device)
            if given is not None:
                self._trainer.append(since(given, asked))
            self.loop.step(batch)
            given = now(self.loop.device)
            self._bare.append(since(asked, given))
            yield batch

    def times(self) -> Pairs:
        """The pairs after the warm-up; of the last one the trainer's end is not seen."""
        pairs = slice(self.warm_up, self.length - 1)
        return Pairs(self._bare[pairs], self._trainer[pairs])


def small_world(batch_size: int, count: int) -> list[Batch]:
    """Batches of the small world with all their fields."""
    samples = [make_sample(0, "train", index) for index in range(batch_size * count)]
    starts = range(0, len(samples), batch_size)
    return [
        collate(samples[start : start + batch_size], positions=range(start, start + batch_size)) for start in starts
    ]
