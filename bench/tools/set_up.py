"""Module and trainer of a configuration exactly as train.py sets them up, for whoever brings data of their own."""

import contextlib
import json
from pathlib import Path

import lightning as L

from mmig.run.cli import MMIGCLI
from mmig.training.module import TrainingModule

ROOT = Path(__file__).resolve().parents[2]
NEVER = 10**9
UNDISTURBED = {"trainer.val_check_interval": NEVER, "trainer.limit_val_batches": 0, "checkpoint.every_n_steps": NEVER}
"""Options of a run that only trains."""


class SetUp(MMIGCLI):
    """train.py up to the point where it would begin to train."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing: the caller trains."""


def set_up(config: Path, runs: Path, steps: int, precision: str | None = None) -> tuple[TrainingModule, L.Trainer]:
    """Module and trainer of `train.py fit --config CONFIG` for some steps on the CPU, without validation.

    Every callback and logger that a run has is there, except those of the configuration that evaluate images.

    Args:
        config: absolute; paths in it are taken from the repository's root.
        runs: folder of runs; logs and the last checkpoint go there.
        steps: of the run.
        precision: None for the configuration's.
    """
    callbacks = [{"class_path": "mmig.methods.mmig.collapse.CollapseGuard"}]
    arguments = {
        "config": config,
        "runs": runs,
        "trainer.max_steps": steps,
        "trainer.accelerator": "cpu",
        "trainer.callbacks": json.dumps(callbacks),
        **UNDISTURBED,
    }
    if precision is not None:
        arguments["trainer.precision"] = precision
    with contextlib.chdir(ROOT):
        made = SetUp(["fit", *(f"--{name}={value}" for name, value in arguments.items())])
    return made.model, made.trainer
