"""The processes that read and decode for a stream: they hear no signal, end with it, and their errors are one line.

What they read, and in which order, is said in `sample_dataset` and `stream`.
"""

from __future__ import annotations

import atexit
import contextlib
import signal
import weakref
from collections.abc import Iterable
from multiprocessing.connection import wait

import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.schema import Batch


def make_loader(
    dataset: Dataset[Batch], sampler: Iterable[list[int]], num_workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    """A loader whose dataset makes whole batches, of the positions that the sampler names; see `ShardStream`."""
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=_ignore_signals,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else each epoch would draw from, and so move, the default generator
    )
    if num_workers:
        atexit.register(_close_at_exit, weakref.ref(loader))
    return loader


def close_loader(loader: DataLoader[Batch]) -> None:
    """Stop the worker processes; iterating again starts new ones."""
    iterator, loader._iterator = loader._iterator, None  # torch has no public way to do this
    if iterator is not None:
        iterator._shutdown_workers()
        for worker in iterator._workers:  # one that waits for a storage hears neither that nor SIGTERM
            worker.kill()


def has_lost_worker(loader: DataLoader[Batch]) -> bool:
    """Whether a worker has ended by itself; what the trainer meets first may be a connection that broke with it."""
    workers = getattr(loader._iterator, "_workers", ())
    with contextlib.suppress(RuntimeError):  # torch's, which has heard of it only now
        wait([worker.sentinel for worker in workers], timeout=1)
    lost = [worker for worker in workers if not worker.is_alive()]  # each is asked, or torch would tell while closing
    return bool(lost)


def raise_without_traceback(error: Exception) -> None:
    """Raise an error of ours as it was before a DataLoader's worker put a traceback before its line; pass any other."""
    kind = type(error)
    _, name, line = str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")
    if name and kind.__module__.startswith("datamodules."):
        raise kind(line.strip()) from error


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _ignore_signals(_: int) -> None:
    """Signals of a terminal or a scheduler reach the whole process group; only the trainer may act on them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _close_at_exit(loader: weakref.ref[DataLoader[Batch]]) -> None:
    """Without this, Python's exit would wait for workers that ignore SIGTERM."""
    if (alive := loader()) is not None:
        close_loader(alive)
