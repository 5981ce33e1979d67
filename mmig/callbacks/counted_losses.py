"""Ends a training whose data have nothing that its losses count, for their value is 0 for ever; warns in validation."""

import logging
from collections.abc import Sequence
from typing import Any, cast

import lightning as L
import torch

from datamodules.schema import IMAGE_FIELDS, MASK_FIELDS, TEXT_FIELDS, Batch
from mmig.callbacks.data_faults import batches_per_epoch
from mmig.callbacks.stopping import stop_together
from mmig.evaluation.rows import gather
from mmig.training.module import TrainingModule
from mmig.training.rng import Draws

JUDGED_AFTER = 1000
"""Samples of which at least one must count in a loss; or all of an epoch or run, if that is shorter."""
FIELDS = (*IMAGE_FIELDS, *MASK_FIELDS, *TEXT_FIELDS)
_log = logging.getLogger(__name__)


class NothingCountsError(ValueError):
    """The data lack what the losses are computed from."""


class CountedLosses(L.Callback):
    """Watches whether any sample counts in any loss term that has a weight.

    Training ends with one line once `JUDGED_AFTER` samples, an epoch or the run are over without one; a validation or
    test without one is a warning.
    """

    def __init__(self) -> None:
        self._samples, self._counts = 0, False
        self._seen: set[str] = set()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew, after a resume too."""
        self._samples, self._counts, self._seen = 0, False, set()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the counts of the step, which are the same on every rank.

        Raises:
            NothingCountsError: on the first rank, while the others end.
        """
        if self._counts:  # once is enough
            return
        module = cast(TrainingModule, pl_module)
        names = [name for name, weight in module.loss_weights.items() if weight]
        self._counts = not names or any(module.outcome.counts.get(name, 1.0) > 0 for name in names)
        if self._counts or trainer.fast_dev_run:
            return
        self._samples += len(batch["key"]) * trainer.world_size
        self._seen |= {field for field in FIELDS if f"has_{field}" in batch and batch[f"has_{field}"].any()}
        over = module.step >= trainer.max_steps > 0 or module.step % batches_per_epoch(trainer) == 0
        if self._samples >= JUDGED_AFTER or over:
            seen = set().union(*gather([self._seen]))
            stop_together(trainer, NothingCountsError(self._finding(module, batch, names, seen)))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn of a loss of 0 that says nothing."""
        weights = pl_module.loss_weights
        rows = [row for row, name in enumerate(weights) if weights[name]]
        counts = gather([float(pl_module._meter.sums[rows, :, 1].sum())])
        if rows and not any(counts) and trainer.is_global_zero and not trainer.fast_dev_run:
            split = "test" if trainer.testing else "validation"
            _log.warning(
                "no %s sample counts in a loss (%s), whose value of 0 says nothing: the data lack what it is computed "
                "from",
                split,
                ", ".join(weights),
            )

    on_test_end = on_validation_end

    def _finding(self, module: TrainingModule, batch: Batch, names: Sequence[str], seen: set[str]) -> str:
        lacking = [field for field in FIELDS if field not in seen]
        needed = missing_fields(module, batch, lacking)
        what = f"they lack {' or '.join(needed)}" if needed else f"they lack {', '.join(lacking)}"
        return (
            f"no sample of the first {self._samples} counts in a loss ({', '.join(names)}), which would be 0 for ever: "
            f"{what}, and have {', '.join(field for field in FIELDS if field in seen) or 'no field'}; give other "
            "data, or look at what is in these (python -m datamodules.browse DIR --out page.html)"
        )


def missing_fields(module: TrainingModule, batch: Batch, lacking: Sequence[str]) -> list[str]:
    """Those of the fields that a batch lacks with any one of which it would count in a loss; none if it takes several.

    Runs no module: how much a sample counts is known from the batch alone (`SteppingModule.losses`).
    """
    return [field for field in lacking if _counts(module, _with(batch, field))]


def _with(batch: Batch, field: str) -> Batch:
    more: dict[str, Any] = {f"has_{field}": torch.ones(len(batch["key"]), dtype=torch.bool)}
    if field in TEXT_FIELDS:
        more[field] = ["x"] * len(batch["key"])
    return cast(Batch, {**batch, **more})


def _counts(module: TrainingModule, batch: Batch) -> bool:
    terms = module.losses(batch, Draws(module.seed, batch["position"]))
    return any(module.loss_weights[name] and bool((term.counts > 0).any()) for name, term in terms.items())
