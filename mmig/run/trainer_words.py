"""Every argument of Lightning's Trainer: obeyed, refused in one line where it would bend nothing or break the run, or
without effect. docs/trainer.md is the same table for readers; a test holds both to Lightning's signature.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import lightning as L
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from mmig.base.settings import imported
from mmig.run.precision import AUTO, MIXED, SINGLE
from mmig.training.fsdp import FSDP2Strategy


class TrainerSettingError(ValueError):
    """A setting of the trainer that this repository does not obey; the line says what does the same."""


class Word(NamedTuple):
    """What becomes of an argument.

    Attributes:
        kind: of treatment. "no effect": any value is taken, and nothing follows from it.
        says: what it does here; of a refused one, what to do instead.
        neutral: values of a refused argument that ask for nothing.
    """

    kind: Literal["obeyed", "refused", "no effect"]
    says: str
    neutral: tuple[Any, ...] = (None, False)


STEPS = "a run is measured in steps"
WORDS: dict[str, Word] = {
    "accelerator": Word("obeyed", "what it computes on"),
    "strategy": Word("obeyed", "auto, ddp (any of its kinds) or fsdp2; others are refused"),
    "devices": Word("obeyed", "processes of a node"),
    "num_nodes": Word("obeyed", "nodes"),
    "precision": Word("obeyed", "32-true, bf16-mixed, or auto: one of them, by GPU or processor; others are refused"),
    "logger": Word("obeyed", "beside TensorBoard's, which every run has; false: none"),
    "callbacks": Word("obeyed", "beside those that every run has"),
    "fast_dev_run": Word("obeyed", "so many steps and batches of validation; nothing is written"),
    "max_epochs": Word("obeyed", "counted in steps at the start; with max_steps, what comes first ends the run"),
    "min_epochs": Word("refused", f"{STEPS}: give trainer.min_steps"),
    "max_steps": Word("obeyed", "global batches; the cosine schedule ends there"),
    "min_steps": Word("obeyed", "no callback ends the run before"),
    "max_time": Word("obeyed", "of the whole run, over all its resumes; ends it, finished, after the step it is in"),
    "limit_train_batches": Word(
        "refused", "the data are one stream: end it by trainer.max_steps, or give fewer shards as data", (None, 1.0)
    ),
    "limit_val_batches": Word("obeyed", "batches of a validation on each rank"),
    "limit_test_batches": Word("obeyed", "batches of a test on each rank"),
    "limit_predict_batches": Word("obeyed", "batches of a prediction on each rank"),
    "overfit_batches": Word(
        "refused",
        "to learn a few samples by heart train on shards of no more than these (`--count` of datamodules.tinyworld, or "
        "`where` of a source, docs/mixtures.md)",
        (0, 0.0),
    ),
    "val_check_interval": Word("obeyed", "steps between two validations; a part of an epoch or a time is refused"),
    "check_val_every_n_epoch": Word("obeyed", "counted in steps at the start; not beside val_check_interval"),
    "num_sanity_val_steps": Word("obeyed", "batches of validation before the first step"),
    "log_every_n_steps": Word("obeyed", "steps between two logged values"),
    "enable_checkpointing": Word(
        "refused",
        "every run is saved (--checkpoint.every_n_steps); trainer.fast_dev_run writes nothing",
        (None, True),
    ),
    "enable_progress_bar": Word("obeyed", "a bar on a terminal, lines in a log; false: neither"),
    "enable_model_summary": Word("obeyed", "a table of the module's parts; here false unless given"),
    "accumulate_grad_batches": Word(
        "refused",
        "give the whole batch as data.init_args.global_batch_size, and what fits as model.init_args.micro_batch_size",
        (1,),
    ),
    "gradient_clip_val": Word("refused", "give model.init_args.optimizer.clip_norm"),
    "gradient_clip_algorithm": Word("refused", "give model.init_args.optimizer.clip_norm: gradients are cut by norm"),
    "deterministic": Word("obeyed", "torch's deterministic algorithms"),
    "benchmark": Word("obeyed", "cuDNN's"),
    "inference_mode": Word("obeyed", "of validate, test and predict"),
    "use_distributed_sampler": Word("no effect", "the streams of these data share samples between ranks themselves"),
    "profiler": Word("obeyed", "writes into the run's folder (docs/cluster.md)"),
    "detect_anomaly": Word("obeyed", "torch's, slow"),
    "barebones": Word("refused", "it takes away what saves and resumes a run; `python bench/trainer_overhead.py`"),
    "plugins": Word(
        "obeyed", "environments of clusters and synchronised layers; of precision and checkpoints: refused"
    ),
    "sync_batchnorm": Word("obeyed", "under ddp on GPUs; refused under fsdp2"),
    "reload_dataloaders_every_n_epochs": Word("refused", "the data are one stream, which is never begun anew", (0,)),
    "default_root_dir": Word("refused", "the folder of the run is RUNS/NAME: give --runs and --name"),
    "enable_autolog_hparams": Word("no effect", "modules keep no hyper-parameters; config.yaml of the run has them"),
    "model_registry": Word("refused", "runs are handed on by `python -m mmig.run.export`"),
}
"""By name."""
PRECISIONS = (SINGLE, MIXED, AUTO)
SHORT = {"32": SINGLE, "bf16": MIXED, "None": SINGLE}
"""Other names of these, as text."""
BY_ROUNDING = "in it most updates of the weights, and of their average, are rounded away"
WHY_NOT = {
    "bf16-true": BY_ROUNDING,
    "16-true": BY_ROUNDING,
    "16-mixed": "it needs a scaled loss, and gradients are clipped as they are",
}


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Refuse what would not be obeyed.

    Args:
        settings: the section `trainer`.

    Raises:
        TrainerSettingError: naming the first such setting.
    """
    for name, word in WORDS.items():
        value = settings.get(name)
        if word.kind == "refused" and name in settings and not _is_one_of(value, word.neutral):
            raise TrainerSettingError(f"trainer.{name}: expected it left out, found {value}; {word.says}")
    check_precision(settings.get("precision"))
    _check_validation(settings)
    for plugin in _as_list(settings.get("plugins")):
        class_path = plugin.get("class_path", "") if hasattr(plugin, "get") else str(plugin)
        if not issubclass(imported(class_path), ClusterEnvironment | LayerSync):
            raise TrainerSettingError(
                f"trainer.plugins: expected an environment of a cluster or synchronised layers, found {class_path}; "
                "precision is set by trainer.precision, and checkpoints are the run's own"
            )


def check_precision(precision: Any) -> None:
    """Refuse a precision in which runs do not learn, or were never tried.

    Raises:
        TrainerSettingError: naming it, and those that there are.
    """
    if SHORT.get(str(precision), str(precision)) not in PRECISIONS:
        why = f": {WHY_NOT[str(precision)]}" if str(precision) in WHY_NOT else ""
        raise TrainerSettingError(f"trainer.precision: expected {' or '.join(PRECISIONS)}, found {precision}{why}")


def check_built(trainer: L.Trainer, sync_batchnorm: bool) -> None:
    """Refuse what can be seen of a trainer alone: strategies that Lightning chose, or knows and this repository not.

    Raises:
        TrainerSettingError: naming the setting.
    """
    check_precision(trainer.precision)
    strategy = trainer.strategy
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy | FSDP2Strategy):
        raise TrainerSettingError(
            f"trainer.strategy: expected auto, ddp or fsdp2 (docs/strategies.md), found {type(strategy).__name__}"
        )
    if sync_batchnorm and isinstance(strategy, FSDP2Strategy):
        raise TrainerSettingError("trainer.sync_batchnorm: expected False under fsdp2, found True; train with ddp")


def _check_validation(settings: Mapping[str, Any]) -> None:
    interval, epochs = settings.get("val_check_interval"), settings.get("check_val_every_n_epoch")
    if interval is not None and epochs is not None:
        raise TrainerSettingError(
            f"trainer.val_check_interval: found {interval} beside trainer.check_val_every_n_epoch {epochs}; give one"
        )
    if interval is not None and (not isinstance(interval, int) or isinstance(interval, bool) or interval < 1):
        raise TrainerSettingError(
            f"trainer.val_check_interval: expected a number of steps, found {interval}; {STEPS}, so that it can be "
            "resumed exactly. After each epoch: trainer.check_val_every_n_epoch 1"
        )
    if epochs is not None and epochs < 1:
        raise TrainerSettingError(f"trainer.check_val_every_n_epoch: expected at least 1, found {epochs}")


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether a value is neutral; 1, one batch, is not 1.0, all of them."""
    return any(value == one and isinstance(value, float) == isinstance(one, float) for one in neutral)


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
