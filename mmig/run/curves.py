"""TensorBoard's curves; a disk that is full interrupts them, and not the run."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray

_log = logging.getLogger(__name__)


class Curves(TensorBoardLogger):
    """A TensorBoardLogger whose values and pictures are lost, with one warning, while nothing can be written.

    TensorBoard's own thread keeps the error of a failed write, raises it at the next one, and never writes again; so a
    new file is begun from time to time, until one can be written.

    Args:
        retry_seconds: between two tries to write again.
        settings: of TensorBoardLogger.
    """

    def __init__(self, *arguments: Any, retry_seconds: float = 60.0, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._retry_seconds = retry_seconds
        self._failed_at = -math.inf

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write values of a step, if anything can be written."""
        self._attempt(lambda: super(Curves, self).log_metrics(metrics, step))

    def log_image(self, key: str, images: Sequence[NDArray[np.uint8]], step: int | None = None) -> None:
        """Write pictures of a step, each uint8 [H,W,3], if anything can be written; called as WandbLogger's is."""
        names = [key] if len(images) == 1 else [f"{key}/{number}" for number in range(len(images))]

        def write() -> None:
            for name, image in zip(names, images, strict=True):
                self.experiment.add_image(name, image, step, dataformats="HWC")

        self._attempt(write)

    def save(self) -> None:
        """Flush to the disk, if anything can be written."""
        self._attempt(super().save)

    def finalize(self, status: str) -> None:
        """Flush and close, if anything can be written."""
        self._attempt(lambda: super(Curves, self).finalize(status))

    def _attempt(self, write: Callable[[], None]) -> None:
        failing = self._failed_at > -math.inf
        if failing and time.monotonic() - self._failed_at < self._retry_seconds:
            return
        try:
            write()
        except (OSError, ValueError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__  # Lightning makes a ValueError of all
            if not isinstance(cause, OSError):
                raise
            if not failing:
                _log.warning(
                    "%s: curves are not written: %s; the run goes on, free some disk space", self.log_dir, cause
                )
            self._experiment, self._failed_at = None, time.monotonic()
        else:
            self._failed_at = -math.inf
