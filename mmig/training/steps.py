"""The training step: one global batch of the stream, its losses, one step of the optimiser.

Each loss term is divided by the count of the whole global batch, over ranks and micro-batches, and the learning rate is
a function of the step. What a checkpoint holds is in `mmig/training/stored.py`.
"""

import contextlib
import math
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple, cast

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.base.batches import micro_batches, move_batch
from mmig.training.optim import OptimizerConfig, build_optimizer, clip_grad_norm, lr_factor, parameters_by_group
from mmig.training.rng import Draws, derive_seed
from mmig.training.stored import StoredModule
from mmig.training.terms import LossTerm, stacked, term_means, total_loss


class StepOutcome(NamedTuple):
    """What came out of a step, the same on every rank.

    Attributes:
        loss: weighted sum of the loss terms over the global batch.
        grad_norm: over all trained parameters, before clipping.
        terms: mean of each loss term over the global batch, by name.
    """

    loss: float
    grad_norm: float
    terms: Mapping[str, float] = MappingProxyType({})

    @property
    def taken(self) -> bool:
        """Whether weights and optimiser moved: only when loss and gradient are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class SteppingModule(StoredModule):
    """What takes training steps on the losses of a subclass.

    Args:
        optimizer: AdamW and its schedule.
        loss_weights: weight of each loss term in the total, by name; the names are those that `losses` returns.
        seed: seed of every draw of the run.
        micro_batch_size: samples a forward and backward; None takes the rank's whole part of the global batch.

    Raises:
        ValueError: a weight for a loss that is not in `known_losses`, or a micro-batch of none.

    Attributes:
        known_losses: loss terms that may have a weight; () leaves them unchecked.
        outcome: of the last training step; None before the first.
    """

    known_losses: ClassVar[tuple[str, ...]] = ()
    outcome: StepOutcome | None = None

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(f"micro_batch_size must be at least 1, found {micro_batch_size}")
        if self.known_losses and (unknown := sorted(set(loss_weights) - set(self.known_losses))):
            known = ", ".join(self.known_losses)
            raise ValueError(f"loss_weights: no loss {unknown[0]!r}; expected some of {known}")
        self.automatic_optimization = False
        self.optimizer_config = optimizer
        self.loss_weights = loss_weights
        self.seed = seed
        self.micro_batch_size = micro_batch_size
        self._clipped_together: dict[str, list[nn.Parameter]] = {}
        self._tables: list[Tensor] = []  # of each micro-batch of the last step, the terms of its samples, [B, terms]

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Each loss term of a batch, with the names of `loss_weights` and in their order.

        Runs no module: what does is in the terms' values.
        """
        raise TypeError(f"{type(self).__name__} must define losses(batch, draws)")

    def logged(self) -> dict[str, Tensor]:
        """Further scalars of the last forward, logged beside the losses."""
        return {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser over every parameter that requires a gradient, in the groups of `optimizer.groups`."""
        # kept, for a walk through thousands of frozen weights takes milliseconds a step
        self._clipped_together = parameters_by_group(self.named_parameters(), self.optimizer_config)
        return build_optimizer(self.named_parameters(), self.optimizer_config)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the tensors; texts and metadata stay (Lightning would walk through every scene graph)."""
        return cast(Batch, move_batch(batch, device, non_blocking=True))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step on this rank's part of one global batch.

        With a loss or gradient that is not finite nothing moves, on any rank; the step counts all the same, for its
        batch was consumed.
        """
        optimizer = self.optimizers()
        self._set_learning_rate(optimizer)
        optimizer.zero_grad()
        sums, counts = self._backward(batch)
        means = {"loss": total_loss(sums, counts, self._weights(sums))}
        means |= zip(self.loss_weights, term_means(sums, counts), strict=True)
        grad_norms = self._clip_gradients()
        # one wait for the device a step; the next one is launched faster than it runs
        grad_norm, *values = torch.stack([grad_norms["grad_norm"], *means.values()]).tolist()
        terms = dict(zip(means, values, strict=True))
        self.outcome = StepOutcome(terms.pop("loss"), grad_norm, terms)
        if self.outcome.taken:
            optimizer.step()
        else:  # Lightning counts calls of the optimiser, and would train on after max_steps for each that is missing
            self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.increment_by(1)
        self.step += 1
        if self.step % self.trainer.log_every_n_steps == 0:
            self._log_training(means, grad_norms)

    def rows_not_finite(self) -> list[int]:
        """Rows of this rank's last training batch that have a loss term that is not finite."""
        return (~torch.cat(self._tables).isfinite()).any(dim=1).nonzero().flatten().tolist() if self._tables else []

    def _backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Forward and backward of every micro-batch; (sum, count) of each term over the global batch, [terms] each."""
        parts = deque(self._terms(part) for part in micro_batches(batch, self.micro_batch_size))
        own_counts = sum(torch.stack([term.counts.sum() for term in terms.values()]) for terms in parts)
        counts, weights = self._reduce(own_counts), self._weights(own_counts)
        sums, self._tables = torch.zeros_like(own_counts), []
        last = len(parts) - 1
        for number in range(last + 1):
            with self._without_gradient_sync() if number < last else contextlib.nullcontext():
                self._seed_dropout(number)
                values, part_counts = self.computed(parts.popleft())  # a part's graph is freed before the next
                part_sums = (values * part_counts).sum(dim=0)
                # DDP averages gradients over ranks
                self.manual_backward(total_loss(part_sums, counts, weights) * self.trainer.world_size)
            sums += part_sums.detach()
            self._tables.append(values.detach())
        return self._reduce(sums), counts

    def _terms(self, batch: Batch) -> dict[str, LossTerm]:
        """The terms of a micro-batch in training.

        Raises:
            ValueError: `losses` names others than `loss_weights`.
        """
        terms = self.losses(batch, Draws(self.seed, batch["position"]))
        if terms.keys() != self.loss_weights.keys():
            raise ValueError(
                f"{type(self).__name__}: loss_weights names {sorted(self.loss_weights)}, "
                f"the losses are {sorted(terms)}; every term needs a weight (0 switches it off)"
            )
        return {name: terms[name] for name in self.loss_weights}

    def computed(self, terms: dict[str, LossTerm]) -> tuple[Tensor, Tensor]:
        """(values, counts) of terms, float32 [B,terms] each: the one way in to every sharded unit."""
        return stacked(terms)

    def _weights(self, like: Tensor) -> Tensor:
        return like.new_tensor(list(self.loss_weights.values()))

    def _seed_dropout(self, micro_batch: int) -> None:
        """Seed the default generators, which dropout inside modules uses, independently of what ran before a resume."""
        seed = derive_seed(self.seed, "dropout", self.step, micro_batch, self.global_rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _reduce(self, tensor: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)  # Lightning's `reduce` would have all ranks wait at a barrier first
        return total

    def _without_gradient_sync(self) -> contextlib.AbstractContextManager[None]:
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else contextlib.nullcontext()

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer) -> None:
        config = self.optimizer_config
        total = config.total_steps or self.trainer.max_steps
        if config.schedule == "cosine" and total < 1:
            raise ValueError("optimizer.schedule 'cosine' needs optimizer.total_steps or trainer.max_steps")
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_factor(config, self.step, total)

    def _clip_gradients(self) -> dict[str, Tensor]:
        """Clip the gradient norm of each group.

        Returns:
            The norms as they were: "grad_norm" over all parameters and "grad_norm/<prefix>" of each named group.
        """
        norms = {}
        for prefix, parameters in self._clipped_together.items():
            norm = clip_grad_norm(parameters, self.optimizer_config.group(prefix).clip_norm)
            norms[prefix] = norm.to(self.device)  # of a group without gradient it would lie on the CPU
        total = norms[""] if norms.keys() == {""} else torch.linalg.vector_norm(torch.stack(list(norms.values())))
        return {"grad_norm": total} | {f"grad_norm/{prefix}": norm for prefix, norm in norms.items() if prefix}

    def _log_training(self, means: dict[str, Tensor], grad_norms: dict[str, Tensor]) -> None:
        self.log("train/loss", means["loss"], prog_bar=True)
        self.log_dict({f"train/{name}": mean for name, mean in means.items() if name != "loss"})
        self.log_dict({f"train/{name}": value for name, value in self.logged().items()})
        last = grad_norms | {"lr": self.optimizers().param_groups[0]["lr"]}
        self.log_dict({f"train/{name}": value for name, value in last.items()})

    def on_train_start(self) -> None:
        """Let Lightning count from our step, so that `max_steps`, log axes and the progress bar continue."""
        loop = self.trainer.fit_loop.epoch_loop
        loop._batches_that_stepped = self.step
        loop.batch_progress.total.ready = loop.batch_progress.total.completed = self.step
        optimizer_steps = loop.manual_optimization.optim_step_progress.total
        optimizer_steps.ready = optimizer_steps.completed = self.step
