"""Scores and pictures while training: samples a fixed validation subset every N steps, with the averaged weights."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn

from mmig.base.batches import readable
from mmig.callbacks.ema import ema_weights
from mmig.editor import MissingFieldError, check_fields
from mmig.evaluation.data import SplitBatches
from mmig.evaluation.grid import draw_grid
from mmig.evaluation.rows import by_key
from mmig.evaluation.runner import EvaluationResult, evaluate_editor
from mmig.evaluation.sets import set_values
from mmig.evaluation.settings import ScoringSettings, build_suite, read_settings
from mmig.metrics.suite import MetricSuite, build_metrics
from mmig.training.fsdp import whole_weights
from mmig.training.modes import evaluating


class EvaluationInterruptedError(Exception):
    """A callback wants the run to end; raised on all ranks together, between two batches."""


class Evaluate(L.Callback):
    """Edits the first validation samples every `every_n_steps`, logs `eval/<metric>`, `eval/num_samples` and a grid.

    A new run does so before its first step too: what can go wrong in sampling goes wrong at once, and the first picture
    shows what the run starts from. These values choose no checkpoint, for there is none of step 0.

    Training goes on as if the callback were not there: random states, train modes and weights are put back. All ranks
    take part with their share of the samples; rank 0 logs the values of all. An evaluation that a signal interrupts is
    done when the run continues.

    Args:
        every_n_steps: steps between two evaluations.
        num_samples: size of the subset, over all ranks.
        seed: sampling seed.
        scoring: metrics, CLIP model and judge, or the path of a YAML that holds them (configs/evaluation/NAME.yaml);
            the metrics that the module itself declares are scored beside them.
        num_examples: rows of the image grid.

    Raises:
        ValueError: for an unknown metric or numbers below 1.
    """

    def __init__(
        self,
        every_n_steps: int,
        num_samples: int = 32,
        seed: int = 0,
        scoring: ScoringSettings | str | None = None,
        num_examples: int = 8,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("num_samples", num_samples)):
            if value < 1:
                raise ValueError(f"Evaluate.{name}: expected at least 1, found {value}")
        self.every_n_steps = every_n_steps
        self.num_samples = num_samples
        self.seed = seed
        self.scoring = read_settings(Path(scoring)) if isinstance(scoring, str) else scoring or ScoringSettings()
        self.num_examples = num_examples
        build_metrics(self.scoring.metrics)
        self._suite: MetricSuite | None = None
        self._overdue = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Load CLIP model and judge and look at the data now, so that wrong ones stop the run at its beginning.

        Raises:
            ValueError: there are no validation samples, or they lack a field that the module's editor requires.
        """
        self._overdue = self._overdue or pl_module.step == 0
        self._suite = build_suite(self.scoring, pl_module.device, pl_module.metrics)
        loader = trainer.datamodule.val_dataloader()
        batch = None if isinstance(loader, list) else next(iter(loader), None)
        if batch is None:
            raise ValueError(
                "Evaluate edits validation samples, the data have none: set data.init_args.val to a folder of shards, "
                "or leave the callback out"
            )
        try:
            check_fields(pl_module.make_pipeline(), readable(batch))
        except MissingFieldError as error:
            raise MissingFieldError(
                f"Evaluate, validation data: {error}; set data.init_args.val to such data, or leave the callback out"
            ) from error

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate before the first step, or make up for what was interrupted at the step of the checkpoint."""
        if self._overdue:
            self._overdue = False
            self._evaluate_unless_interrupted(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate when the step is due."""
        if pl_module.step % self.every_n_steps == 0:
            self._evaluate_unless_interrupted(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note what is overdue."""
        if self._overdue:
            checkpoint["evaluation_overdue"] = True

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Learn what is overdue."""
        self._overdue = checkpoint.get("evaluation_overdue", False)

    def _evaluate_unless_interrupted(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        try:
            self.evaluate(trainer, pl_module, chooses=pl_module.step > 0)
        except EvaluationInterruptedError:
            self._overdue = True  # the callback that wants it ends the run after this step

    def evaluate(self, trainer: L.Trainer, pl_module: L.LightningModule, chooses: bool = True) -> EvaluationResult:
        """Sample, score and log now; every rank must call it. `chooses`: the values are seen by who picks the best."""
        if self._suite is None:
            self._suite = build_suite(self.scoring, pl_module.device, pl_module.metrics)
        self._suite.reset()
        loader = trainer.datamodule.val_dataloader()
        batches = SplitBatches(loader, trainer.global_rank, trainer.world_size, self.num_samples, is_shared=True)
        with undisturbed(pl_module), ema_weights(trainer), whole_weights(trainer):
            result = evaluate_editor(
                pl_module.make_pipeline(),
                attended(trainer, batches),
                self._suite,
                [self.seed],
                device=pl_module.device,
                num_examples=self.num_examples,
            )
        scalars = _scalars(result, self._suite)
        if chooses:
            trainer.callback_metrics.update(scalars)  # the same on every rank, for the choice of the best checkpoint
        if trainer.is_global_zero:
            self._log(trainer.loggers, scalars, result, pl_module.step)
        return result

    def _log(self, loggers: Sequence[Any], scalars: dict[str, float], result: EvaluationResult, step: int) -> None:
        grid = np.asarray(draw_grid(result.examples))
        for logger in loggers:
            logger.log_metrics(scalars, step=step)
            if hasattr(logger, "log_image"):
                logger.log_image("eval/grid", [grid], step)
            elif hasattr(logger.experiment, "add_image"):
                logger.experiment.add_image("eval/grid", grid, step, dataformats="HWC")


def attended(trainer: L.Trainer, batches: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The batches; before each one every callback with `between_batches` is asked whether the run is to end.

    Raises:
        EvaluationInterruptedError: it is, according to one of them.
    """
    asked = [callback.between_batches for callback in trainer.callbacks if hasattr(callback, "between_batches")]
    for batch in batches:
        if any(ask() for ask in asked):
            raise EvaluationInterruptedError
        yield batch


def _scalars(result: EvaluationResult, suite: MetricSuite) -> dict[str, float]:
    scalars = {"eval/num_samples": float(len(result.rows))}
    for name in result.rows[0].values:
        values = by_key(result.rows, name)
        if values:
            scalars[f"eval/{name}"] = max(float(np.mean(list(values.values()))), suite.floors[name])
    of_sets = set_values(result.rows, suite.sets)
    return scalars | {f"eval/{name}": value for name, value in of_sets.items()}


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule's mode and the default random states are as before."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with evaluating(module), torch.random.fork_rng(devices=list(devices)):
        yield
