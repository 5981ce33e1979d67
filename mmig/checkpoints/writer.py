"""Writes checkpoints while training goes on: the training loop waits only for the copy to host memory."""

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException

from mmig.checkpoints.files import finish_folder, on_host, split_shards, write_file
from mmig.training.fsdp import FSDP2Strategy


class CheckpointWriteError(OSError):
    """A checkpoint could not be written."""


class CheckpointWriter:
    """Writes one checkpoint at a time: a file by rank 0, or under FSDP2 a folder by all ranks in parallel.

    Every rank must make the same calls in the same order.

    Args:
        trainer: the run's.
        written: called on rank 0, in the writing thread, when a checkpoint has its name.
    """

    def __init__(self, trainer: L.Trainer, written: Callable[[Path], None]) -> None:
        self._trainer = trainer
        self._written = written
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[Path, Future] | None = None
        self._group = dist.new_group(backend="gloo") if isinstance(trainer.strategy, FSDP2Strategy) else None

    def start(self, path: Path) -> None:
        """Copy the state of the run to host memory and begin to write it; an earlier write must have been waited for.

        Whatever goes wrong on the disk is told by `wait`, on all ranks.
        """
        values = self._trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if self._group is not None:
            future = self._start_folder(values, path)
        elif self._trainer.is_global_zero:
            future = self._thread.submit(self._write_file, on_host(values), path)
        else:
            return
        self._pending = path, future

    def written_before(self, path: Path) -> None:
        """Call `written` for a checkpoint that is on disk already."""
        if self._trainer.is_global_zero:
            self._pending = path, self._thread.submit(self._written, path)

    def wait(self) -> str | None:
        """Wait until everything is on disk; what went wrong, the same text on every rank, or None."""
        problem = None
        if self._pending is not None:
            path, future = self._pending
            self._pending = None
            error = future.exception()
            if error is not None:
                problem = f"{path}: {reason(error)}"
        return self._trainer.strategy.broadcast(problem)

    def close(self) -> None:
        """End the writing thread."""
        self._thread.shutdown()

    def _write_file(self, values: dict[str, Any], path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(values, path)
        self._written(path)

    def _start_folder(self, values: dict[str, Any], path: Path) -> Future:
        values, shards = split_shards(values)
        writer = dcp.HuggingFaceStorageWriter(str(path.with_suffix(".partial")), save_distributed=True)
        shards_written = dcp.async_save(shards, storage_writer=writer, process_group=self._group)
        return self._thread.submit(self._finish_folder, shards_written, on_host(values), path)

    def _finish_folder(self, shards_written: Future, values: dict[str, Any], path: Path) -> None:
        partial = path.with_suffix(".partial")
        try:
            shards_written.result()
            if self._trainer.is_global_zero:
                finish_folder(values, partial, path)
        finally:  # no rank writes any more; on a full disk what is there would be in the way of the next
            if self._trainer.is_global_zero:
                shutil.rmtree(partial, ignore_errors=True)
        if self._trainer.is_global_zero:
            self._written(path)


def reason(error: BaseException) -> str:
    """Why something was not written or read, in one line.

    Of what several ranks tell it is the first one's; what the system says goes before what a library makes of it.
    """
    if isinstance(error, CheckpointException) and error.failures:
        rank, (failure, _) = min(error.failures.items())
        return f"rank {rank}: {reason(failure)}"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    text = str(cause or error)
    return text.splitlines()[0] if text else type(error).__name__
