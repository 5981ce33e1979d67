"""What every measurement asks of its own process first."""

import logging
import warnings

import torch

from mmig.base.commands import keep_freed_memory


def quiet_and_single() -> None:
    """One thread, memory kept, and neither the libraries' hints nor their warnings between the figures."""
    keep_freed_memory()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
