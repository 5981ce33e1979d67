"""The mapper of MGIE's data step, killed in the middle."""

import os
import signal
from collections.abc import Sequence
from typing import Any

from datamodules.schema import Sample
from mmig.methods.mgie.expressive import ExpressiveTargets


class DeadlyTargets(ExpressiveTargets):
    """Kills this process, as no signal handler can help, when it is asked about the `fatal_at`-th sample of it."""

    def __init__(self, fatal_at: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.left = fatal_at

    def answer(self, samples: Sequence[Sample]) -> Sequence[Any]:
        self.left -= len(samples)
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(samples)
