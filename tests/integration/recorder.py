"""Writes down which samples a run trains on."""

import json
from pathlib import Path
from typing import Any

import lightning as L


class Recorder(L.Callback):
    """A line a step in `folder`/RANKS-RANK.jsonl: the step, keys, positions and the size of the images.

    Args:
        folder: a run that goes on with other ranks writes to other files in it.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        row = [pl_module.step, batch["key"], batch["position"].tolist(), list(batch["target"].shape[2:])]
        with (self.folder / f"{trainer.world_size}-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def recorded(folder: Path, num_ranks: int) -> dict[int, tuple[list[str], list[int], list[list[int]]]]:
    """Global batch of each step that so many ranks saw: keys, positions, and the size that each rank's images had."""
    batches: dict[int, tuple[list[str], list[int], list[list[int]]]] = {}
    for rank in range(num_ranks):
        for line in (folder / f"{num_ranks}-{rank}.jsonl").read_text().splitlines():
            step, keys, positions, size = json.loads(line)
            of_step = batches.setdefault(step, ([], [], []))
            of_step[0].extend(keys)
            of_step[1].extend(positions)
            of_step[2].append(size)
    return batches
