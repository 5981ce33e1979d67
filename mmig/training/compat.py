"""Where Lightning's own handling of signals is switched off; `mmig.callbacks.preemption` stands in its place.

Lightning 2.6.6 broadcasts inside its handler of SIGTERM, which hangs the ranks that are somewhere else at that moment;
in a SLURM job it saves inside its handler of SIGUSR1; and with several ranks it broadcasts a flag before every step and
waits for the device to read it. tests/mmig/training/test_compat.py fails where a version brings any of it back.
"""

import contextlib
import subprocess

import lightning as L
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher


def without_lightning_signals(trainer: L.Trainer) -> L.Trainer:
    """The same trainer, which from now on installs no signal handler and asks no rank for a signal."""
    trainer._signal_connector.register_signal_handlers = _nothing
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False
    return trainer


def log_step(trainer: L.Trainer) -> None:
    """Hand the values of the step in progress to the loggers, as the loop does after the callbacks."""
    trainer._logger_connector.update_train_step_metrics()


def run_validation(trainer: L.Trainer) -> None:
    """Run the validation that the training loop would have run after the last step."""
    loop = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped -= 1  # there it logs before it counts the step
    trainer.validating = True
    loop.val_loop.run()
    trainer.training = True
    loop._batches_that_stepped += 1


def wait_for_launched(trainer: L.Trainer, seconds: float) -> None:
    """Wait for the ranks that this process has started, which Lightning leaves behind."""
    launcher = trainer.strategy.launcher
    for process in launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else ():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def kill_launched(trainer: L.Trainer) -> None:
    """Kill the ranks that this process has started."""
    launcher = trainer.strategy.launcher
    for process in launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else ():
        process.kill()


def _nothing() -> None:
    """In place of a method; no lambda, since spawned ranks pickle the trainer."""
