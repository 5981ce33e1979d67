"""The training step: one global batch of the stream, its losses, one step of each optimiser that is due.

Each loss term is divided by the count of the whole global batch, over ranks and micro-batches, and the learning rate is
a function of the step. Which optimisers there are and when they are due is in `mmig/training/optimizing.py`, how their
gradients are kept apart in `mmig/training/descents.py`, what a checkpoint holds in `mmig/training/stored.py`.
"""

import contextlib
import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple, cast

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor

from datamodules.schema import Batch
from mmig.base.batches import micro_batches, move_batch
from mmig.training.descents import TurnDescents, sum_over_ranks
from mmig.training.optim import OptimizerConfig
from mmig.training.optimizing import OptimizingModule
from mmig.training.rng import Draws, derive_seed
from mmig.training.terms import LossTerm, stacked, term_means, total_loss
from mmig.training.turns import Share


class StepOutcome(NamedTuple):
    """What came out of a step, the same on every rank.

    Attributes:
        loss: weighted sum of the loss terms over the global batch.
        grad_norm: over all parameters that were to move, before clipping.
        terms: mean of each loss term that was computed over the global batch, by name.
        counts: how much the samples of the global batch counted in each of these terms together.
    """

    loss: float
    grad_norm: float
    terms: Mapping[str, float] = MappingProxyType({})
    counts: Mapping[str, float] = MappingProxyType({})

    @property
    def taken(self) -> bool:
        """Whether weights and optimiser moved: only when loss and gradient are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class SteppingModule(OptimizingModule):
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
        super().__init__(optimizer, loss_weights)
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(f"micro_batch_size must be at least 1, found {micro_batch_size}")
        if self.known_losses and (unknown := sorted(set(loss_weights) - set(self.known_losses))):
            known = ", ".join(self.known_losses)
            raise ValueError(f"loss_weights: no loss {unknown[0]!r}; expected some of {known}")
        self.automatic_optimization = False
        self.seed = seed
        self.micro_batch_size = micro_batch_size
        # the newest numbers since the last log, for not every turn is due in the step that is logged
        self._latest: dict[str, Tensor | float] = {}
        self._tables: list[Tensor] = []  # of each micro-batch of the last step, the terms of its samples, [B, terms]

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Each loss term of a batch, with the names of `loss_weights` and in their order.

        Runs no module: what does is in the terms' values. With several turns, training asks only for the values of
        terms of which one is due; validation asks for all, without gradients.
        """
        raise TypeError(f"{type(self).__name__} must define losses(batch, draws)")

    def logged(self) -> dict[str, Tensor]:
        """Further scalars of the last forward, logged beside the losses."""
        return {}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the tensors; texts and metadata stay (Lightning would walk through every scene graph)."""
        return cast(Batch, move_batch(batch, device, non_blocking=True))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step on this rank's part of one global batch: all turns that are due, from the same weights.

        With a loss or gradient that is not finite nothing moves, in any turn and on any rank; the step counts all the
        same, for its batch was consumed.
        """
        due, weights = self._due()
        optimizers = self._ready_optimizers(due)
        sums, counts, found = (
            self._backward_apart(batch, due, weights) if self._apart else self._backward(batch, weights)
        )
        means = {"loss": total_loss(sums, counts, _tensor(weights | found, sums))}
        means |= zip(weights, term_means(sums, counts), strict=True)
        grad_norms = self._clip_gradients(due)
        # one wait for the device a step; the next one is launched faster than it runs
        grad_norm, *values = torch.stack([grad_norms["grad_norm"], *means.values(), *counts]).tolist()
        terms = dict(zip(means, values, strict=False))
        counted = dict(zip(weights, values[len(means) :], strict=True))
        self.outcome = StepOutcome(terms.pop("loss"), grad_norm, terms, counted)
        if self.outcome.taken:
            for optimizer in optimizers.values():
                optimizer.step()
        self.count_step()
        self._latest |= means | {f"weight/{name}": weight for name, weight in found.items()} | grad_norms
        several = len(self._shares) > 1
        self._latest |= {f"lr/{n}" if several else "lr": o.param_groups[0]["lr"] for n, o in optimizers.items()}
        if self.step % self.trainer.log_every_n_steps == 0:
            self._log_training()

    def rows_not_finite(self) -> list[int]:
        """Rows of this rank's last training batch that have a loss term that is not finite."""
        return (~torch.cat(self._tables).isfinite()).any(dim=1).nonzero().flatten().tolist() if self._tables else []

    def _backward(self, batch: Batch, weights: Mapping[str, float]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Forward and backward of every micro-batch of a module with one optimiser.

        Returns:
            (sum, count) of each term over the global batch, [terms] each; no computed weights.
        """
        parts, counts = self._counted(batch, weights)
        fixed = _tensor(weights, counts)
        sums, self._tables = torch.zeros_like(counts), []
        last = len(parts) - 1
        for number in range(last + 1):
            with self._without_gradient_sync() if number < last else contextlib.nullcontext():
                self._seed_dropout(number)
                values, part_counts = self.computed(parts.popleft())  # a part's graph is freed before the next
                part_sums = (values * part_counts).sum(dim=0)
                # DDP averages gradients over ranks
                self.manual_backward(total_loss(part_sums, counts, fixed) * self.trainer.world_size)
            sums += part_sums.detach()
            self._tables.append(values.detach())
        return self._reduce(sums), counts, {}

    def _backward_apart(
        self, batch: Batch, due: Sequence[Share], weights: Mapping[str, float]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Forward of every micro-batch, and a backward for each gradient that is to be kept apart.

        Returns:
            (sum, count) of each term over the global batch, [terms] each, and the computed weights by term.
        """
        parts, counts = self._counted(batch, weights)
        turns = [TurnDescents(share, weights, len(parts) == 1, self._sum_over_ranks) for share in due]
        sums, self._tables = torch.zeros_like(counts), []
        with self._without_gradient_sync():
            for number in range(len(parts)):
                self._seed_dropout(number)
                sums += self._descend(parts.popleft(), dict(zip(weights, counts, strict=True)), turns)
        self._sum_over_ranks([gradient for turn in turns for descent in turn.kept for gradient in descent.filled()])
        for turn in turns:
            turn.join()
        return self._reduce(sums), counts, {name: weight for turn in turns for name, weight in turn.computed.items()}

    def _descend(
        self, terms: dict[str, LossTerm], counts: Mapping[str, Tensor], turns: Sequence[TurnDescents]
    ) -> Tensor:
        """Forward and backwards of one micro-batch, whose graph ends here; the sum of each term, [terms]."""
        values, part_counts = self.computed(terms)
        losses = [pair for turn in turns for pair in turn.losses(terms, counts)]
        for number, (descent, loss) in enumerate(losses, 1):
            descent.add(loss, self.manual_backward, retain_graph=number < len(losses))
        self._tables.append(values.detach())
        return (values.detach() * part_counts).sum(dim=0)

    def _counted(self, batch: Batch, names: Collection[str]) -> tuple[deque[dict[str, LossTerm]], Tensor]:
        """The terms of these names of each micro-batch, and their counts in the global batch, [terms]."""
        parts = deque(
            {name: term for name, term in self._terms(part).items() if name in names}
            for part in micro_batches(batch, self.micro_batch_size)
        )
        own_counts = sum(torch.stack([term.counts.sum() for term in terms.values()]) for terms in parts)
        return parts, self._reduce(own_counts)

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

    def _sum_over_ranks(self, tensors: Sequence[Tensor]) -> None:
        if self.trainer.world_size > 1:
            sum_over_ranks(tensors)

    def _without_gradient_sync(self) -> contextlib.AbstractContextManager[None]:
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else contextlib.nullcontext()

    def _log_training(self) -> None:
        latest, self._latest = self._latest, {}
        self.log("train/loss", latest.pop("loss"), prog_bar=True)
        latest |= self.logged()
        self.log_dict({f"train/{name}": value for name, value in latest.items()})


def _tensor(weights: Mapping[str, Tensor | float], like: Tensor) -> Tensor:
    """Weights that may lie on the device already, [terms]; nothing waits for it."""
    values = list(weights.values())
    if not any(isinstance(value, Tensor) for value in values):
        return like.new_tensor(values)
    return torch.stack([value if isinstance(value, Tensor) else like.new_tensor(value) for value in values])
