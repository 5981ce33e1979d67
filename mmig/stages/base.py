"""The training module that every stage and every method derives from.

A subclass says what the loss terms are and which parameters require gradients. This file holds what they share:
one batch of the stream is one optimiser step, each loss term is divided by the count of the whole global batch,
the learning rate is a function of the step, and a checkpoint holds only what differs from the named backbones.
"""

import contextlib
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.editing import Editor, EditOutput
from mmig.optim import OptimizerConfig, build_adamw, lr_factor, state_by_index, state_by_name
from mmig.rng import Draws, derive_seed, generator
from mmig.stages.loss_meter import LossMeter
from mmig.stages.micro_batches import micro_batches

VALIDATION_SEED = 1_000_003
"""Added to the run's seed for validation draws, so that no validation noise was ever trained on."""


class TrainingModule(L.LightningModule):
    """Base of every trainable method.

    Args:
        optimizer: AdamW and its schedule.
        loss_weights: weight of each loss term in the total, by name; the names are those that `losses` returns.
        seed: seed of every draw of the run.
        micro_batch_size: samples a forward and backward; None takes the rank's whole part of the global batch.
    """

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
        self.automatic_optimization = False
        self.strict_loading = False  # backbones are not in the checkpoint; `on_load_checkpoint` checks the rest
        self.optimizer_config = optimizer
        self.loss_weights = loss_weights
        self.seed = seed
        self.micro_batch_size = micro_batch_size
        self.step = 0
        self._meter = LossMeter(loss_weights)
        self._backbones: dict[str, dict[str, str]] = {}

    # What a subclass defines -------------------------------------------------------------------------------------

    def losses(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Value of each loss term for each sample, [B], with the names of `loss_weights`."""
        raise TypeError(f"{type(self).__name__} must define losses(batch, draws)")

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Weight of each sample in the mean of each term, [B]: 0 for a missing field, answer tokens for a token mean.

        Read from the batch alone, before the forward, so that the global count is known to every micro-batch.
        """
        ones = torch.ones(len(batch["key"]), device=self.device)
        return dict.fromkeys(self.loss_weights, ones)

    def timesteps(self, draws: Draws) -> Tensor | None:
        """Diffusion timestep of each sample, [B] in [0, 1000), for validation by timestep; None where there is none."""
        return None

    def logged(self) -> dict[str, Tensor]:
        """Further scalars of the last forward, logged beside the losses."""
        return {}

    def named_backbones(self) -> dict[str, nn.Module]:
        """Frozen pretrained parts by name; their weights stay out of checkpoints while they are not trained."""
        return {}

    def backbone_paths(self) -> dict[str, str]:
        """Hub id or folder of each named backbone, recorded with its fingerprint in manifest and checkpoints."""
        return {}

    def describe_backbones(self) -> dict[str, dict[str, str]]:
        """Path and fingerprint of each named backbone."""
        paths = self.backbone_paths()
        if not paths:
            return {}
        from mmig.backbones.fingerprint import fingerprint

        return {name: {"path": path, "fingerprint": fingerprint(path)} for name, path in paths.items()}

    def make_pipeline(self) -> Editor:
        """The editor that evaluate.py and the callbacks run."""
        raise TypeError(f"{type(self).__name__} trains a part that edits no images: it has no pipeline")

    # Training ----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over every parameter that requires a gradient."""
        return build_adamw(self.named_parameters(), self.optimizer_config)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimiser step on this rank's part of one global batch."""
        optimizer = self.optimizers()
        self._set_learning_rate(optimizer)
        optimizer.zero_grad()
        sums = self._backward(batch)
        grad_norm = self._clip_gradients()
        optimizer.step()
        self.step += 1
        if self.step % self.trainer.log_every_n_steps == 0:
            self._log_training(sums, grad_norm)

    def _backward(self, batch: Batch) -> Tensor:
        """Forward and backward of every micro-batch; returns (sum, count) of each term on this rank, [terms, 2]."""
        names = list(self.loss_weights)
        counts = self.loss_counts(batch)
        total_counts = self._reduce(torch.stack([counts[name].sum().float() for name in names]))
        scale = self.trainer.world_size / total_counts.clamp(min=1e-12)  # DDP averages gradients over ranks
        sums = torch.zeros(len(names), device=self.device)
        parts = list(micro_batches(batch, self.micro_batch_size))
        for number, part in enumerate(parts):
            with contextlib.nullcontext() if number == len(parts) - 1 else self._without_gradient_sync():
                # dropout inside modules: the default generator, so it must not depend on what ran before a resume
                torch.manual_seed(derive_seed(self.seed, "dropout", self.step, number, self.global_rank))
                part_sums = self._term_sums(part, Draws(self.seed, part["position"]))
                weights = part_sums.new_tensor([self.loss_weights[name] for name in names])
                self.manual_backward((part_sums * scale * weights).sum())
            sums += part_sums.detach()
        return torch.stack([sums, torch.stack([counts[name].sum().float() for name in names])], dim=1)

    def _term_sums(self, batch: Batch, draws: Draws) -> Tensor:
        """Counted sum of each term over the samples of a micro-batch, float32 [terms]."""
        values, counts = self.losses(batch, draws), self.loss_counts(batch)
        if values.keys() != self.loss_weights.keys():
            raise ValueError(
                f"{type(self).__name__}: loss_weights names {sorted(self.loss_weights)}, "
                f"the losses are {sorted(values)}; every term needs a weight (0 switches it off)"
            )
        return torch.stack([(values[name].float() * counts[name]).sum() for name in self.loss_weights])

    def _reduce(self, tensor: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(tensor, reduce_op="sum") if self.trainer.world_size > 1 else tensor

    def _without_gradient_sync(self) -> contextlib.AbstractContextManager[None]:
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else contextlib.nullcontext()

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer) -> None:
        config = self.optimizer_config
        total = config.total_steps or self.trainer.max_steps
        if config.schedule == "cosine" and total < 1:
            raise ValueError("optimizer.schedule 'cosine' needs optimizer.total_steps or trainer.max_steps")
        for group in optimizer.param_groups:
            group["lr"] = config.lr * lr_factor(config, self.step, total)

    def _clip_gradients(self) -> Tensor:
        """Clip the global gradient norm and return it as it was; Lightning's own clipping refuses fused AdamW."""
        parameters = [p for p in self.parameters() if p.grad is not None]
        max_norm = self.optimizer_config.clip_norm
        return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm is not None else float("inf"), foreach=True)

    def _log_training(self, sums: Tensor, grad_norm: Tensor) -> None:
        sums = self._reduce(sums)
        means = dict(zip(self.loss_weights, sums[:, 0] / sums[:, 1].clamp(min=1e-12), strict=True))
        total = torch.stack([self.loss_weights[name] * mean for name, mean in means.items()]).sum()
        self.log("train/loss", total, prog_bar=True)
        self.log_dict({f"train/{name}": mean for name, mean in means.items()})
        self.log_dict({f"train/{name}": value for name, value in self.logged().items()})
        self.log_dict({"train/grad_norm": grad_norm, "train/lr": self.optimizers().param_groups[0]["lr"]})

    # Validation and test -----------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget the sums of the last run."""
        self._meter = LossMeter(self.loss_weights)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Every loss term of the batch, by timestep range too; the draws differ from those of training."""
        draws = Draws(self.seed + VALIDATION_SEED, batch["position"])
        self._meter.update(self.losses(batch, draws), self.loss_counts(batch), self.timesteps(draws))

    def on_validation_epoch_end(self) -> None:
        """Log `val/<term>`, `val/<term>/t000-249` and so on, and their weighted sum `val/loss`."""
        prefix = "test" if self.trainer.testing else "val"
        metrics = self._meter.compute(self._reduce, self.device)
        self.log_dict({f"{prefix}/{name}": value for name, value in metrics.items() if name != "loss"})
        self.log(f"{prefix}/loss", metrics["loss"], prog_bar=True)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Batch, batch_idx: int) -> EditOutput:
        """Edit the images of a batch; the result depends on seed and key alone, not on the batch they came in."""
        return self.make_pipeline()(batch, [generator(self.seed, "predict", key) for key in batch["key"]])

    # Checkpoints -------------------------------------------------------------------------------------------------

    def stored_names(self) -> set[str]:
        """Names of the weights and buffers that a checkpoint holds: all but those of untrained backbones."""
        frozen = {
            id(tensor)
            for module in self.named_backbones().values()
            for tensor in [*module.parameters(), *module.buffers()]
            if not tensor.requires_grad
        }
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {name for name in self.state_dict() if id(tensors[name]) not in frozen}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what differs from the backbones, key the optimiser by name, and drop Lightning's loop counters."""
        stored = self.stored_names()
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in stored}
        states = zip(checkpoint["optimizer_states"], self._optimizer_names(self.trainer.optimizers), strict=True)
        checkpoint["optimizer_states"] = [state_by_name(state, names) for state, names in states]
        checkpoint["step"] = self.step
        checkpoint["backbones"] = self._backbones
        checkpoint.pop("loops")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the weights and bring the optimiser's state back into Lightning's form."""
        self.check_weights(checkpoint["state_dict"])
        self.step = checkpoint["step"]
        fresh = self.configure_optimizers()
        optimizers = list(fresh) if isinstance(fresh, list | tuple) else [fresh]
        states = zip(checkpoint["optimizer_states"], self._optimizer_names(optimizers), strict=True)
        checkpoint["optimizer_states"] = [state_by_index(state, names) for state, names in states]

    def check_weights(self, weights: dict[str, Tensor]) -> None:
        """Raise ValueError unless `weights` are exactly the stored weights of this module, in name and shape."""
        own = self.state_dict()
        missing, extra = sorted(self.stored_names() - weights.keys()), sorted(weights.keys() - own.keys())
        if missing or extra:
            raise ValueError(
                f"the checkpoint does not fit {type(self).__name__}: missing {missing[:3]} ({len(missing)} in all), "
                f"unexpected {extra[:3]} ({len(extra)}); it was written by another method, stage or size"
            )
        for name, value in weights.items():
            if value.shape != own[name].shape:
                raise ValueError(
                    f"the checkpoint's {name} has shape {list(value.shape)}, {type(self).__name__} expects "
                    f"{list(own[name].shape)}: the configs differ in a width"
                )

    def on_fit_start(self) -> None:
        """Read the backbones' fingerprints once, for the checkpoints."""
        self._backbones = self.describe_backbones()

    def on_train_start(self) -> None:
        """Let Lightning count from our step, so that `max_steps`, log axes and the progress bar continue."""
        loop = self.trainer.fit_loop.epoch_loop
        loop._batches_that_stepped = self.step
        loop.batch_progress.total.ready = loop.batch_progress.total.completed = self.step
        optimizer_steps = loop.manual_optimization.optim_step_progress.total
        optimizer_steps.ready = optimizer_steps.completed = self.step

    def _optimizer_names(self, optimizers: list[torch.optim.Optimizer]) -> list[list[str]]:
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        return [[names[id(p)] for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
