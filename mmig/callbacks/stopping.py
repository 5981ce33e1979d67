"""How a guard ends a run on all ranks together, with one line in all."""

from typing import NoReturn

import lightning as L


def stop_together(trainer: L.Trainer, error: Exception) -> NoReturn:
    """Raise `error` on the first rank and end the others quietly; every rank must call it at the same step.

    The others end with status 0: what started them would else, for their end, kill the first rank before it has said
    why. The status of the whole run is that of the first rank.
    """
    if trainer.is_global_zero:
        raise error
    raise SystemExit(0)
