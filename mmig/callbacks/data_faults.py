"""What of the data could not be used, epoch by epoch of the stream: by reason, over all ranks, across resumes."""

import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L

from mmig.callbacks.row_file import RowFile
from mmig.evaluation.rows import gather

SHARDS_LISTED = 20
"""Worst shards that a row of the file names."""
_log = logging.getLogger(__name__)


class DataFaults(L.Callback):
    """Adds up the bad samples that came with the batches of training (see `datamodules/faults.py`).

    At the end of each epoch of the stream, and of the run within one: a row of `data_faults.jsonl`, the scalars
    `data/faults/<reason>` and `data/faults_share`, and a line where there were any. A loader without
    `batches_per_epoch` is one epoch. Counted is what the trainer consumed, not what workers prefetched.

    Args:
        directory: folder of the file, the run's.
    """

    def __init__(self, directory: str | Path) -> None:
        self._file = RowFile(Path(directory) / "data_faults.jsonl", "epoch")
        self._good = self._good_of_rank = 0
        self._bad: Counter[tuple[str, str]] = Counter()  # by (reason, shard), of all ranks
        self._bad_of_rank: Counter[tuple[str, str]] = Counter()  # what is not in there yet
        self._reasons: set[str] = set()  # of all epochs, so that a curve falls back to 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; sum up where it was the epoch's last."""
        self._good_of_rank += sum(key != "" for key in batch["key"])  # an empty one stands where nothing could be read
        self._bad_of_rank.update((fault["reason"], fault["shard"]) for fault in batch["faults"])
        if pl_module.step % batches_per_epoch(trainer) == 0:
            self._add_ranks()
            self._report(trainer, pl_module.step, whole=True)
            self._good, self._bad = 0, Counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sum up what there is of the last epoch."""
        self._add_ranks()
        if self._good or self._bad:
            self._report(trainer, pl_module.step, whole=False)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the counts of all ranks under "data_faults"; every rank comes here, whichever writes."""
        self._add_ranks()
        bad = [[reason, shard, count] for (reason, shard), count in sorted(self._bad.items())]
        checkpoint["data_faults"] = {"good": self._good, "bad": bad, "reasons": sorted(self._reasons)}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        state = checkpoint.get("data_faults")
        if state is not None:
            self._good, self._reasons = state["good"], set(state["reasons"])
            self._bad = Counter({(reason, shard): count for reason, shard, count in state["bad"]})

    def _add_ranks(self) -> None:
        for good, bad in gather([(self._good_of_rank, self._bad_of_rank)]):
            self._good += good
            self._bad.update(bad)
        self._good_of_rank, self._bad_of_rank = 0, Counter()
        self._reasons.update(reason for reason, _ in self._bad)

    def _report(self, trainer: L.Trainer, step: int, whole: bool) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        epoch = (step - 1) // batches_per_epoch(trainer)
        row = fault_row(int(epoch), step, whole, self._good, self._bad)
        self._file.add(row)
        scalars = {f"data/faults/{reason}": float(row["faults"].get(reason, 0)) for reason in self._reasons}
        for logger in trainer.loggers:
            logger.log_metrics({**scalars, "data/faults_share": row["share"]}, step=step)
        if row["bad"]:
            _log.warning("%s; see %s", fault_line(row), self._file.path)


def fault_row(epoch: int, step: int, whole: bool, good: int, bad: Counter[tuple[str, str]]) -> dict[str, Any]:
    """What the file says of an epoch: samples read, bad ones among them, their share, by reason and in which shards."""
    by_reason: Counter[str] = Counter()
    by_shard: Counter[str] = Counter()
    for (reason, shard), count in sorted(bad.items()):
        by_reason[reason] += count
        by_shard[shard] += count
    num_bad = by_reason.total()
    read = good + num_bad
    return {
        "epoch": epoch,
        "step": step,
        "whole": whole,
        "read": read,
        "bad": num_bad,
        "share": num_bad / read if read else 0.0,
        "faults": dict(by_reason.most_common()),
        "shards": dict(by_shard.most_common(SHARDS_LISTED)),
    }


def fault_line(row: dict[str, Any]) -> str:
    """The same in words."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in row["faults"].items())
    shard, count = next(iter(row["shards"].items()))
    so_far = "" if row["whole"] else " up to the end of the run"
    return (
        f"data of epoch {row['epoch']}{so_far}: {row['bad']} of {row['read']} samples read could not be used "
        f"({row['share']:.2%}): {reasons}; most in {shard} ({count})"
    )


def batches_per_epoch(trainer: L.Trainer) -> float:
    """Global batches of a whole epoch of the training stream; infinitely many of a loader that does not say."""
    return getattr(trainer.train_dataloader, "batches_per_epoch", math.inf)
