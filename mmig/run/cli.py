"""The command line of train.py: LightningCLI with a run directory, exact resume and initialisation from a run."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mmig.base.commands import keep_freed_memory, one_line_errors
from mmig.base.files import write_text
from mmig.base.processor import share_cores
from mmig.base.versions import describe_code
from mmig.callbacks.counted_losses import CountedLosses
from mmig.callbacks.data_faults import DataFaults
from mmig.callbacks.ema import EMA
from mmig.callbacks.epochs import EpochsInSteps
from mmig.callbacks.overdue_validation import OverdueValidation
from mmig.callbacks.prediction_writer import PredictionWriter
from mmig.callbacks.preemption import Interrupted, Preempted, Preemption
from mmig.callbacks.progress import progress
from mmig.callbacks.run_checkpoint import RunCheckpoint, run_checkpoint
from mmig.callbacks.step_guard import StepGuard
from mmig.callbacks.watchdog import Watchdog, flight_recorder
from mmig.checkpoints.checkpoint import (
    CheckpointError,
    find_checkpoint,
    newest_readable,
    read_checkpoint,
)
from mmig.checkpoints.files import AnyFormIO
from mmig.run.data_first import DataFirstCLI
from mmig.run.manifest import (
    RunLockedError,
    append_submission,
    check_name,
    ended_early,
    make_run_folder,
    mark_finished,
    run_lock,
    unmark_finished,
)
from mmig.run.parser import OneLineParser, plain_values
from mmig.run.precision import Trainer, settled, suit_products
from mmig.run.resume import check_settings
from mmig.run.seeds import spread_seed
from mmig.run.start import be_quiet, interruptible
from mmig.run.starting import start_weights
from mmig.run.trainer_words import check_built, check_trainer
from mmig.training.agreement import leave_process_group
from mmig.training.compat import kill_launched, wait_for_launched, without_lightning_signals
from mmig.training.module import TrainingModule

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": -1,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": None,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
}


class MMIGCLI(DataFirstCLI):
    """LightningCLI in which the command line always wins and a checkpoint never changes a setting."""

    def __init__(self, args: list[str] | None = None, run: bool = True) -> None:
        self.words = list(sys.argv[1:] if args is None else args)
        super().__init__(
            TrainingModule,
            L.LightningDataModule,
            trainer_class=Trainer,
            save_config_callback=None,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=OneLineParser,
            args=args,
            run=run,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Lightning's four, without `ckpt_path`, whose place --resume takes; of them the one that is given.

        To build the parser of one takes 0.05 s.
        """
        named = {name: skip | {"ckpt_path", "weights_only"} for name, skip in LightningCLI.subcommands().items()}
        return {name: skip for name, skip in named.items() if name in self.words[:1]} or named

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's own options and the callbacks that every run has."""
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Name of the run: its folder is RUNS/NAME (default: that of the first configuration file).",
        )
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--resume",
            type=str,
            default="auto",
            help="'auto' continues the run where a checkpoint of it exists; or a path to continue from exactly.",
        )
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="Run, checkpoint or exported folder whose weights a new run starts from.",
        )
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(StepGuard, "guard")
        parser.add_lightning_class_args(Preemption, "preemption")
        parser.add_lightning_class_args(Watchdog, "watchdog")
        parser.set_defaults({"checkpoint.directory": "", "guard.directory": "", "watchdog.directory": ""})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and remember which settings are given."""
        super().parse_arguments(parser, args)
        # what is filled in later has no default
        places = [f"--{name}.directory=" for name in ("checkpoint", "guard", "watchdog")]
        self.given = parser.parse_args([*self.words, *places], defaults=False)

    def _parse_ckpt_path(self) -> None:
        """Lightning would let a checkpoint's hyper-parameters beat the command line; here nothing does."""

    @property
    def options(self) -> Any:
        """Parsed options of the chosen subcommand."""
        return self.config[self.subcommand]

    @property
    def run_directory(self) -> Path:
        """Folder of the run."""
        return Path(self.options.runs) / self.options.name

    def check_words(self) -> None:
        """Refuse what would not be obeyed, and let seeds follow `seed_everything`.

        Raises:
            TrainerSettingError: see `check_trainer`.
        """
        check_trainer(self.options.trainer)
        trainer = self.options.trainer
        trainer.precision = settled(trainer.precision, trainer.accelerator)  # so that the run's config.yaml notes it
        given = self.given[self.subcommand] if self.subcommand else self.given
        kept = spread_seed(self.options, given)
        asked = any(word.partition("=")[0] == "--seed_everything" for word in self.words)
        if kept and asked and os.environ.get("LOCAL_RANK", "0") == "0":
            seed = self.options.seed_everything
            sys.stderr.write(f"warning: --seed_everything {seed} leaves {' and '.join(kept)} as given\n")

    def before_instantiate_classes(self) -> None:
        """Name the run, and place its checkpoints in its directory."""
        self.check_words()
        if self.options.name is None:
            if not self.options.config:
                self.parser.error("--name: expected a name for the run, or a --config to call it after")
            self.options.name = Path(str(self.options.config[0])).stem
        check_name(self.options.name)
        self.options.checkpoint.directory = str(self.run_directory / "checkpoints")
        self.options.guard.directory = str(self.run_directory)
        self.options.watchdog.directory = str(self.run_directory / "hang")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Add the logger and callbacks that live in the run directory."""
        shown = [] if self.options.trainer.enable_progress_bar is False else [progress()]
        # without a bar of ours Lightning would draw its own
        kwargs["enable_progress_bar"] = any(isinstance(callback, ProgressBar) for callback in shown)
        writes = [PredictionWriter(self.run_directory / "predictions")] if self.subcommand == "predict" else []
        training = [EpochsInSteps(), DataFaults(self.run_directory), OverdueValidation()]
        watches = [*(training if self.subcommand == "fit" else []), CountedLosses()]
        self.trainer_defaults["callbacks"] = [*shown, *writes, *watches]
        for name, value in flight_recorder(self.run_directory / "hang").items():
            os.environ.setdefault(name, value)
        trainer = without_lightning_signals(super().instantiate_trainer(**kwargs))
        check_built(trainer, self.options.trainer.sync_batchnorm)
        trainer.strategy.checkpoint_io = AnyFormIO()
        suit_products(trainer)
        # the average takes a step in before any callback of the configuration evaluates it
        trainer.callbacks.sort(key=lambda callback: not isinstance(callback, EMA))
        if self.options.trainer.logger is not False and not self.options.trainer.fast_dev_run:
            self._log_to_run(trainer)
        return trainer

    def _log_to_run(self, trainer: L.Trainer) -> None:
        """Let TensorBoard write into the run directory, beside the loggers that the configuration names."""
        from lightning.pytorch.loggers import TensorBoardLogger

        from mmig.run.curves import Curves

        named = [] if self.options.trainer.logger in (None, True) else trainer.loggers
        if not any(isinstance(logger, TensorBoardLogger) for logger in named):
            own = Curves(self.options.runs, name=self.options.name, version="tensorboard")
            trainer.loggers = [own, *named]

    def resolved_config(self) -> dict[str, Any]:
        """The merged configuration as plain values."""
        return plain_values(self._parser(self.subcommand), self.options)

    def _run_subcommand(self, subcommand: str) -> None:
        runner = self._fit if subcommand == "fit" else self._evaluate
        runner(subcommand)

    def _fit(self, subcommand: str) -> None:
        run, config = self.run_directory, self.resolved_config()
        if self.options.trainer.fast_dev_run:
            self._train(None)
            return
        make_run_folder(run)
        if (step := ended_early(run, config)) is not None:
            if self.trainer.global_rank == 0:
                sys.stderr.write(f"{run} is finished: a callback or max_time ended it after step {step}\n")
            return
        if os.environ.get("LOCAL_RANK", "0") != "0" or self.trainer.global_rank != 0:
            self._train(self._resume_path())
            return
        with run_lock(run):
            unmark_finished(run)  # there may be more to do than there was
            resume = self._resume_path()
            if resume is not None:
                check_settings(self._parser(self.subcommand), run, resume, config)
            write_text(run / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            facts = {"world_size": self.trainer.world_size, "strategy": type(self.trainer.strategy).__name__}
            own = {"resumed_from": resume and str(resume), "seed": config["seed_everything"]}
            append_submission(run, **own, backbones=self.model.describe_origins(), **facts)
            run_checkpoint(self.trainer).manifest = {"name": run.name, "config": config, **describe_code(), **facts}
            self._train(resume)
            self._note_end()

    def _note_end(self) -> None:
        """Note a run that has come to its end; one that was interrupted has not, and says nothing."""
        last = self.trainer.max_steps
        whole = 0 < last <= self.model.step
        if whole or self.trainer.should_stop:
            mark_finished(self.run_directory, self.model.step, early=not whole)

    def _train(self, resume: Path | None) -> None:
        if resume is None:
            start_weights(self.model, self.options.init_from, is_told=self.trainer.global_rank == 0)
        try:
            self.trainer.fit(self.model, self.datamodule, ckpt_path=resume, weights_only=True)
        except Interrupted:
            kill_launched(self.trainer)
            raise
        except Preempted:
            wait_for_launched(self.trainer, seconds=30)
            raise

    def _evaluate(self, subcommand: str) -> None:
        path = self._resume_path() or find_checkpoint(self.run_directory)
        getattr(self.trainer, subcommand)(self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True)

    def _resume_path(self) -> Path | None:
        if self.options.resume == "auto":
            path, broken = newest_readable(self.run_directory / "checkpoints")
            if self.trainer.global_rank == 0:
                for problem in broken:
                    sys.stderr.write(f"warning: {problem}; going on from {path}, this one will be written again\n")
            return path
        path = find_checkpoint(self.options.resume)
        values = read_checkpoint(path, outline=True)  # a broken one is named before anything starts
        if "optimizer_states" not in values:
            raise CheckpointError(f"--resume {path}: it holds weights only; start a new run from it with --init_from")
        return path


def main(args: list[str] | None = None) -> None:
    """Run train.py; what a user can mend ends in one line, not in a traceback (MMIG_TRACEBACK=1 shows it)."""
    keep_freed_memory()  # data loader workers inherit it
    share_cores()
    be_quiet()
    with one_line_errors(RunLockedError, MisconfigurationException), interruptible():
        try:
            MMIGCLI(args)
        except Preempted as end:
            if end.message:
                sys.stderr.write(f"{end.message}\n")
            leave_process_group()
            raise
        leave_process_group()
