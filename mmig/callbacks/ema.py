"""Exponential moving average of the trained weights."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from mmig.training.sharding import local
from mmig.training.turns import within


def ema_decay(decay: float, updates: int) -> float:
    """Decay of update number `updates` (1 = the first): min(decay, (1 + n) / (10 + n)), latent diffusion's warm-up."""
    return min(decay, (1 + updates) / (10 + updates))


class EMA(L.Callback):
    """Keeps an average of the parameters that are trained and evaluates with it.

    One fused in-place update a step; frozen backbones are not copied. The average travels in the checkpoint under
    "ema" and is swapped in while the trainer validates, tests and predicts. What is averaged is fixed when the training
    starts, and by the checkpoint on a resume: the parameters that require a gradient then, but those in the module's
    `not_averaged` parts and in `exclude`.

    Args:
        decay: largest decay, in [0, 1).
        exclude: dotted prefixes of the names of parameters that are not averaged.
    """

    def __init__(self, decay: float = 0.9999, exclude: Sequence[str] = ()) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay must lie in [0, 1), found {decay}")
        self.decay = decay
        self.exclude = tuple(exclude)
        self.updates = 0
        self.shadow: dict[str, Tensor] = {}
        self._averages: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._swapped = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the weights as they are, unless a checkpoint brought the average.

        Raises:
            ValueError: nothing that trains is in a part of `exclude`.
        """
        weights = dict(pl_module.named_parameters())
        if not self.shadow:
            self.shadow = {name: weights[name].detach() for name in self._chosen(pl_module)}
        self.shadow = {name: value.to(weights[name].device, copy=True) for name, value in self.shadow.items()}
        # listed once, for a walk through thousands of frozen weights takes milliseconds; sharded: this rank's part
        self._averages = [local(value) for value in self.shadow.values()]
        self._weights = [local(weights[name].detach()) for name in self.shadow]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average towards the weights, where these moved."""
        if pl_module.outcome.taken:
            self.update()

    def update(self) -> None:
        """One update towards the weights as they are now."""
        self.updates += 1
        if self._averages:
            torch._foreach_lerp_(self._averages, self._weights, 1 - ema_decay(self.decay, self.updates))

    @contextlib.contextmanager
    def averaged(self, pl_module: L.LightningModule) -> Iterator[None]:
        """Put the average into the module for the time of a `with` block; blocks may be nested."""
        if self._swapped or not self.shadow:
            yield
            return
        self._swap(pl_module)
        try:
            yield
        finally:
            self._swap(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate with the average."""
        self._swap_if_present(pl_module, to_average=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go back to the weights that are trained."""
        self._swap_if_present(pl_module, to_average=False)

    on_test_start, on_test_end = on_validation_start, on_validation_end
    on_predict_start, on_predict_end = on_validation_start, on_validation_end

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the average under "ema"."""
        checkpoint["ema"] = {"decay": self.decay, "updates": self.updates, "weights": dict(self.shadow)}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue the average of the checkpoint, where it has one."""
        if "ema" in checkpoint:
            self.updates = checkpoint["ema"]["updates"]
            self.shadow = dict(checkpoint["ema"]["weights"])

    def _swap_if_present(self, pl_module: L.LightningModule, to_average: bool) -> None:
        if self.shadow and self._swapped != to_average:
            self._swap(pl_module)

    def _swap(self, pl_module: L.LightningModule) -> None:
        self._swapped = not self._swapped
        parameters = dict(pl_module.named_parameters())
        for name, shadow in self.shadow.items():
            own, average = local(parameters[name].detach()), local(shadow)
            weights = own.clone()
            own.copy_(average)
            average.copy_(weights)

    def _chosen(self, pl_module: L.LightningModule) -> list[str]:
        """Names of the parameters to average."""
        trained = [name for name, parameter in pl_module.named_parameters() if parameter.requires_grad]
        for part in self.exclude:
            if not any(within(name, (part,)) for name in trained):
                raise ValueError(f"ema.exclude: no trained parameter in {part!r}; expected one such as {trained[0]}")
        excluded = (*pl_module.not_averaged, *self.exclude)
        return [name for name in trained if not within(name, excluded)]


@contextlib.contextmanager
def ema_weights(trainer: L.Trainer) -> Iterator[None]:
    """Run a `with` block on the averaged weights, where the trainer keeps an average."""
    module = trainer.lightning_module
    with contextlib.ExitStack() as stack:
        for callback in trainer.callbacks:
            if isinstance(callback, EMA):
                stack.enter_context(callback.averaged(module))
        yield


@contextlib.contextmanager
def trained_weights(trainer: L.Trainer) -> Iterator[None]:
    """Run a `with` block on the weights that are trained, also in the middle of a validation."""
    module = trainer.lightning_module
    swapped = [callback for callback in trainer.callbacks if isinstance(callback, EMA) and callback._swapped]
    for callback in swapped:
        callback._swap(module)
    try:
        yield
    finally:
        for callback in swapped:
            callback._swap(module)
