"""How train.py begins: what it does not say, and how Ctrl-C ends it outside of a training."""

import contextlib
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from types import FrameType

from mmig.base.commands import INTERRUPTED
from mmig.callbacks.interrupts import InterruptWatch
from mmig.callbacks.preemption import Interrupted
from mmig.run.data_first import is_first_process

GRACE = 3.0
"""Seconds in which a program that has nothing to save ends by itself after Ctrl-C."""


def be_quiet() -> None:
    """Leave out what libraries say at every start and nobody can use."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # hardware lists and tips
    for message in (
        ".*does not have many workers.*",  # the config says how many
        ".*in eval mode at the start of training.*",  # the frozen backbones
        ".*overridden `transfer_batch_to_device`.*",  # on purpose
        "Total length of `list` across ranks is zero.*",  # no validation split
        ".*LeafSpec.*",  # between lightning and torch
        ".*`srun` command is available.*",  # whoever has SLURM knows
    ):
        warnings.filterwarnings("ignore", message=message)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise `Interrupted` wherever the callback `Preemption` does not hear it: there is nothing to save.

    Lightning would take a KeyboardInterrupt for its own, and end with status 1 and without a word. Ranks that wait for
    one another inside a library hear nothing; a watch ends them.
    """
    before = signal.signal(signal.SIGINT, _end)
    watch = InterruptWatch(lambda: None, lambda: sys.stderr.write(_line()), GRACE)
    try:
        yield
    finally:
        watch.close()
        signal.signal(signal.SIGINT, before)


def _line() -> str:
    """What there is to say, on the first rank."""
    told = "SIGINT: ended outside of the steps of a training, there is nothing to save\n"
    return told if is_first_process() else ""


def _end(number: int, frame: FrameType | None) -> None:
    raise Interrupted(_line().strip(), INTERRUPTED)
