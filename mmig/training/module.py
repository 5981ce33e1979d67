"""The training module that every stage and every method derives from.

A subclass says what the loss terms are and which parameters require gradients. This file holds what they share:
one batch of the stream is one optimiser step, each loss term is divided by the count of the whole global batch, and
the learning rate is a function of the step. What a checkpoint holds is in `mmig/training/stored.py`.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Protocol, cast

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.base.batches import micro_batches, move_batch, readable
from mmig.editor import Editor, EditOutput, check_fields
from mmig.training.fsdp import whole_weights
from mmig.training.loss_meter import LossMeter
from mmig.training.optim import OptimizerConfig, build_optimizer, clip_grad_norm, lr_factor, parameters_by_group
from mmig.training.rng import Draws, derive_seed, sample_generators
from mmig.training.stored import StoredModule

VALIDATION_SEED = 1_000_003
"""Added to the run's seed for validation draws, so that no validation noise was ever trained on."""


class StepOutcome(NamedTuple):
    """What came out of an optimiser step, the same on every rank.

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


class CachedFeatures(Protocol):
    """What a method's frozen parts make of a batch, read where it was cached (`mmig.cache.frozen.FrozenFeatures`).

    Attributes:
        names: features that may be cached.
        facts: what they depend on.
    """

    names: frozenset[str]
    facts: Callable[[], Mapping[str, str]]


class TrainingModule(StoredModule):
    """Base of every trainable method.

    Args:
        optimizer: AdamW and its schedule.
        loss_weights: weight of each loss term in the total, by name; the names are those that `losses` returns.
        seed: seed of every draw of the run.
        micro_batch_size: samples a forward and backward; None takes the rank's whole part of the global batch.

    Raises:
        ValueError: a weight for a loss that is not in `known_losses`, or a micro-batch of none.

    Attributes:
        known_losses: loss terms that may have a weight; () leaves them unchecked.
        new_parts: dotted prefixes of the parameters that no earlier stage has. A checkpoint given to --init_from holds
            each of these parts whole or not at all; every other trained weight outside the backbones it must hold.
        absent_parts: dotted prefixes of what other stages have and this one does without; --init_from leaves them out.
        terms_without_timestep: loss terms that validation does not split by timestep, see `LossMeter`.
        features: what asks its frozen parts and knows which features of theirs may be cached; None: none.
        outcome: of the last training step; None before the first.
    """

    known_losses: ClassVar[tuple[str, ...]] = ()
    new_parts: ClassVar[tuple[str, ...]] = ()
    absent_parts: tuple[str, ...] = ()
    terms_without_timestep: ClassVar[tuple[str, ...]] = ()
    features: CachedFeatures | None = None
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
        self._meter = LossMeter(loss_weights, self.terms_without_timestep)
        self._clipped_together: dict[str, list[nn.Parameter]] = {}
        self._tables: list[Tensor] = []  # of each micro-batch of the last step, the terms of its samples, [B, terms]

    # What a subclass defines -------------------------------------------------------------------------------------

    def losses(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Value of each loss term for each sample, [B], with the names of `loss_weights`."""
        raise TypeError(f"{type(self).__name__} must define losses(batch, draws)")

    def loss_counts(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Weight of each sample in the mean of each term, [B]: 0 for a missing field, answer tokens for a token mean.

        Asked for before the forward, so that the global count is known to every micro-batch. A count may depend on
        draws, which are keyed by position: those of the whole batch and those of its micro-batches agree.
        """
        ones = torch.ones(len(batch["key"]), device=self.device)
        return dict.fromkeys(self.loss_weights, ones)

    def timesteps(self, draws: Draws) -> Tensor | None:
        """Diffusion timestep of each sample, [B] in [0, 1000), for validation by timestep; None where there is none."""
        return None

    @property
    def images_with_features(self) -> frozenset[str]:
        """Image fields that `losses` does not look at in samples with cached features; these are not even decoded."""
        return frozenset()

    def logged(self) -> dict[str, Tensor]:
        """Further scalars of the last forward, logged beside the losses."""
        return {}

    def make_pipeline(self) -> Editor:
        """The editor that evaluate.py and the callbacks run."""
        raise TypeError(f"{type(self).__name__} trains a part that edits no images: it has no pipeline")

    def export(self, folder: Path, resolution: int | None = None) -> str:
        """Write what edits images with these weights as a folder in diffusers' layout.

        Args:
            folder: to write into, on no checkpoint's way.
            resolution: side of the images in training, where it is known.

        Returns:
            What the folder's card says of the method and its use, in markdown.
        """
        raise TypeError(f"{type(self).__name__} has no export(folder); see the export of its method's package")

    # Training ----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser over every parameter that requires a gradient, in the groups of `optimizer.groups`."""
        # kept, for a walk through thousands of frozen weights takes milliseconds a step
        self._clipped_together = parameters_by_group(self.named_parameters(), self.optimizer_config)
        return build_optimizer(self.named_parameters(), self.optimizer_config)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the tensors; texts and metadata stay (Lightning would walk through every scene graph)."""
        return cast(Batch, move_batch(batch, device, non_blocking=True))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimiser step on this rank's part of one global batch.

        With a loss or gradient that is not finite nothing moves, on any rank; the step counts all the same, for its
        batch was consumed.
        """
        optimizer = self.optimizers()
        self._set_learning_rate(optimizer)
        optimizer.zero_grad()
        means = self._means(self._reduce(self._backward(batch)))
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

    def _backward(self, batch: Batch) -> Tensor:
        """Forward and backward of every micro-batch; returns (sum, count) of each term on this rank, [terms, 2]."""
        counts = self._term_counts(batch, Draws(self.seed, batch["position"]))
        own_counts = counts.sum(dim=0)
        total_counts = self._reduce(own_counts)
        weights = counts.new_tensor(list(self.loss_weights.values()))
        # DDP averages gradients over ranks
        scale = weights * self.trainer.world_size / total_counts.clamp(min=1e-12)
        sums, self._tables = torch.zeros_like(own_counts), []
        size = self.micro_batch_size or len(counts)
        parts = list(zip(micro_batches(batch, size), counts.split(size), strict=True))
        for number, (part, part_counts) in enumerate(parts):
            with contextlib.nullcontext() if number == len(parts) - 1 else self._without_gradient_sync():
                self._seed_dropout(number)
                part_sums = self._term_sums(part, Draws(self.seed, part["position"]), part_counts)
                self.manual_backward((part_sums * scale).sum())
            sums += part_sums.detach()
        return torch.stack([sums, own_counts], dim=1)

    def _seed_dropout(self, micro_batch: int) -> None:
        """Seed the default generators, which dropout inside modules uses, independently of what ran before a resume."""
        seed = derive_seed(self.seed, "dropout", self.step, micro_batch, self.global_rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _term_counts(self, batch: Batch, draws: Draws) -> Tensor:
        """How much each sample counts in each term, float32 [B, terms]."""
        counts = self.loss_counts(batch, draws)
        return torch.stack([counts[name] for name in self.loss_weights], dim=1).float()

    def _term_sums(self, batch: Batch, draws: Draws, counts: Tensor) -> Tensor:
        """Counted sum of each term over the samples of a micro-batch, float32 [terms]; counts are [B, terms]."""
        values = self.losses(batch, draws)
        if values.keys() != self.loss_weights.keys():
            raise ValueError(
                f"{type(self).__name__}: loss_weights names {sorted(self.loss_weights)}, "
                f"the losses are {sorted(values)}; every term needs a weight (0 switches it off)"
            )
        table = torch.stack([values[name].float() for name in self.loss_weights], dim=1)
        self._tables.append(table.detach())
        return (table * counts).sum(dim=0)

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

    def _means(self, sums: Tensor) -> dict[str, Tensor]:
        """Mean of each term from the (sum, count) of the global batch, [terms, 2], and "loss", their weighted sum."""
        means = dict(zip(self.loss_weights, sums[:, 0] / sums[:, 1].clamp(min=1e-12), strict=True))
        total = torch.stack([self.loss_weights[name] * mean for name, mean in means.items()]).sum()
        return {"loss": total, **means}

    def _log_training(self, means: dict[str, Tensor], grad_norms: dict[str, Tensor]) -> None:
        self.log("train/loss", means["loss"], prog_bar=True)
        self.log_dict({f"train/{name}": mean for name, mean in means.items() if name != "loss"})
        self.log_dict({f"train/{name}": value for name, value in self.logged().items()})
        last = grad_norms | {"lr": self.optimizers().param_groups[0]["lr"]}
        self.log_dict({f"train/{name}": value for name, value in last.items()})

    # Validation and test -----------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget the sums of the last run."""
        self._meter = LossMeter(self.loss_weights, self.terms_without_timestep)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Every loss term of the batch, by timestep range too; the draws differ from those of training."""
        draws = Draws(self.seed + VALIDATION_SEED, batch["position"])
        counts = self.loss_counts(batch, draws)
        if "repeated" in batch:
            counts = {name: count * ~batch["repeated"] for name, count in counts.items()}
        self._meter.update(self.losses(batch, draws), counts, self.timesteps(draws))

    def on_validation_epoch_end(self) -> None:
        """Log `val/<term>`, `val/<term>/t000-249` and so on, and their weighted sum `val/loss`."""
        prefix = "test" if self.trainer.testing else "val"
        metrics = self._meter.compute(self._reduce, self.device)
        self.log_dict({f"{prefix}/{name}": value for name, value in metrics.items() if name != "loss"})
        self.log(f"{prefix}/loss", metrics["loss"], prog_bar=True)

    def on_validation_start(self) -> None:
        """Outside of training, let Lightning log at the checkpoint's step instead of 0."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.step

    on_test_start = on_validation_start
    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def on_predict_epoch_start(self) -> None:
        """Let ranks edit different numbers of images."""
        self._whole = contextlib.ExitStack()
        self._whole.enter_context(whole_weights(self.trainer))

    def on_predict_epoch_end(self) -> None:
        """Go back to shards."""
        self._whole.close()

    def predict_step(self, batch: Batch, batch_idx: int) -> EditOutput:
        """Edit the readable images of a batch; the result depends on seed and key alone, not on the batch around it.

        Raises:
            MissingFieldError: a sample lacks a field that the editor requires.
        """
        editor, batch = self.make_pipeline(), cast(Batch, readable(batch))
        check_fields(editor, batch)
        if not batch["key"]:
            return EditOutput(batch["source"], [])
        return editor(batch, sample_generators(self.seed, batch["key"]))

    def on_train_start(self) -> None:
        """Let Lightning count from our step, so that `max_steps`, log axes and the progress bar continue."""
        loop = self.trainer.fit_loop.epoch_loop
        loop._batches_that_stepped = self.step
        loop.batch_progress.total.ready = loop.batch_progress.total.completed = self.step
        optimizer_steps = loop.manual_optimization.optim_step_progress.total
        optimizer_steps.ready = optimizer_steps.completed = self.step
