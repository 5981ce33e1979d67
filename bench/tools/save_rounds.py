"""Rounds of training steps without a save, with one in the background, and with one that is waited for."""

import json
import time
from pathlib import Path
from typing import Any

import lightning as L

from mmig.callbacks.run_checkpoint import RunCheckpoint

KINDS = ("none", "beside", "waited")


class SaveRounds(L.Callback):
    """Times rounds of steps of all three kinds in turn, and writes the times down on the first rank.

    What a background save still has to do at the end of its round is waited for within the round.

    Args:
        steps: of a round.
        rounds: of each kind, after one of each that warms up.
        out: JSON file: of each kind a list of {"wall", "processor", "stall"} in seconds; stall is the time for which
            the loop stood still to save.
    """

    def __init__(self, steps: int, rounds: int, out: str) -> None:
        self.steps, self.rounds, self.out = steps, rounds, Path(out)
        self._times: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        self._start = (0.0, 0.0)
        self._stall = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a round; save in its first step."""
        if pl_module.step % self.steps == 0:
            self._start, self._stall = (time.perf_counter(), time.process_time()), 0.0
            kind = KINDS[pl_module.step // self.steps % len(KINDS)]
            if kind != "none":
                saver = next(c for c in trainer.checkpoint_callbacks if isinstance(c, RunCheckpoint))
                start = time.perf_counter()
                saver.save(trainer, pl_module.step)
                if kind == "waited":
                    saver.finish()
                self._stall = time.perf_counter() - start

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a round."""
        if pl_module.step % self.steps:
            return
        kind = KINDS[(pl_module.step // self.steps - 1) % len(KINDS)]
        if kind == "beside":
            next(c for c in trainer.checkpoint_callbacks if isinstance(c, RunCheckpoint)).finish()
        wall, processor = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        if pl_module.step > len(KINDS) * self.steps:
            self._times[kind].append({"wall": wall, "processor": processor, "stall": self._stall})
        if trainer.is_global_zero and pl_module.step == (self.rounds + 1) * len(KINDS) * self.steps:
            self.out.write_text(json.dumps(self._times))
