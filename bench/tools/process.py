"""What every measurement asks of its own process first."""

import ctypes
import logging
import warnings

import torch


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of any size; else page faults cost a process 20 % on one side or the other."""
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # M_TRIM_THRESHOLD and so on in glibc's malloc.h
    for option, size in ((trim_threshold, 2**31 - 1), (top_pad, 2**28), (mmap_threshold, 2**31 - 1)):
        ctypes.CDLL(None).mallopt(option, size)


def quiet_and_single() -> None:
    """One thread, memory kept, and neither the libraries' hints nor their warnings between the figures."""
    keep_freed_memory()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
