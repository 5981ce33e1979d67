"""Editors, data and judges small enough to evaluate in a test."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from datamodules.schema import Batch, Sample
from datamodules.shards import write_shards
from mmig.editor import EditOutput
from mmig.metrics.images import signed_to_unit, to_bytes
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm
from tests.mmig.metrics.support import random_batch


@dataclass(frozen=True)
class CopySampling:
    """The factor is that of the noise."""

    num_steps: int = 1
    factor: float = 1.0


class NoisyCopy:
    """Copies the source and adds noise from the generators: the smallest editor with a seed."""

    required_fields: tuple[str, ...] = ("source", "instruction")
    response_source = "none"

    def __init__(self, strength: float | Tensor = 0.1, sampling: CopySampling | None = None) -> None:
        self.strength = strength
        self.sampling = sampling or CopySampling()

    def __call__(self, batch: Batch, generator: torch.Generator | Sequence[torch.Generator]) -> EditOutput:
        generators = [generator] * len(batch["key"]) if isinstance(generator, torch.Generator) else generator
        noise = torch.stack([torch.randn(batch["source"].shape[1:], generator=source) for source in generators])
        images = batch["source"] + self.strength * self.sampling.factor * noise.to(batch["source"].device)
        return EditOutput(images.clamp(-1, 1), [f"{text}, done" for text in batch["instruction"]])


class CopyModule(TrainingModule):
    """Trains the one weight of `NoisyCopy`, so that runs, EMA and checkpoints can be tested with it."""

    def __init__(self, optimizer: OptimizerConfig | None = None, **settings: Any) -> None:
        super().__init__(optimizer or OptimizerConfig(lr=0.1), {"size": 1.0}, **settings)
        self.strength = nn.Parameter(torch.tensor(0.5))
        self.dropout = nn.Dropout(0.5)

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Pull the strength to zero, a little differently at each step."""
        noise = draws.normal("noise", (4,)).to(self.device)

        def size() -> Tensor:  # dropout is seeded before the values are asked for, not before the terms
            return self.strength.square() * self.dropout(noise.square()).mean(1)

        return {"size": LossTerm(torch.ones(len(noise)), size)}

    def make_pipeline(self) -> NoisyCopy:
        """The editor with the weight as it is."""
        return NoisyCopy(self.strength.detach())


class FewBatches(L.LightningDataModule):
    """Random batches that every rank takes its part of."""

    def __init__(self, num_samples: int = 6, batch_size: int = 4) -> None:
        super().__init__()
        self.num_samples, self.batch_size = num_samples, batch_size

    def train_dataloader(self) -> "Loader":
        return Loader(random_batch(40, seed=5), self.batch_size)

    def val_dataloader(self) -> "Loader":
        rows = range(self.trainer.global_rank, self.num_samples, self.trainer.world_size)
        return Loader(pick(random_batch(self.num_samples), rows), self.batch_size)


class Loader:
    """Iterates over batches; Lightning takes a plain list for a list of loaders."""

    def __init__(self, batch: dict[str, Any], size: int) -> None:
        self.parts = list(batches(batch, size))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


class BrightJudge:
    """An edit is right where the image is bright on average."""

    def __call__(self, image: Tensor, metadata: dict[str, Any]) -> dict[str, float]:
        return {"success": float(image.mean() > 0), "preservation": float(metadata["truth"] % 2)}

    def text(self, text: str, metadata: dict[str, Any]) -> bool:
        return text == metadata.get("text")


def pick(batch: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Some samples of a batch, in this order."""
    rows = list(rows)
    return {
        name: value[torch.tensor(rows, dtype=torch.long)] if isinstance(value, Tensor) else [value[row] for row in rows]
        for name, value in batch.items()
    }


def batches(batch: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """A large batch in smaller ones, with positions as the stream gives them."""
    count = len(batch["key"])
    whole = {**batch, "position": torch.arange(count)}
    for start in range(0, count, size):
        yield {**pick(whole, range(start, min(start + size, count))), "faults": []}


def random_samples(count: int) -> list[Sample]:
    """Samples of a random batch, one by one, without responses."""
    batch = random_batch(count)
    images = {name: to_bytes(signed_to_unit(batch[name])).numpy() for name in ("source", "target")}
    return [
        Sample(
            key=key,
            source=Image.fromarray(images["source"][row]),
            target=Image.fromarray(images["target"][row]),
            metadata=batch["metadata"][row],
            **{name: batch[name][row] for name in ("instruction", "source_caption", "target_caption", "edit_type")},
        )
        for row, key in enumerate(batch["key"])
    ]


def write_data(folder: Path, samples: Sequence[Sample], split: str = "test", **arguments: Any) -> Path:
    """Samples as a split on disk; returns the YAML that evaluate.py takes."""
    write_shards(samples, folder / split, samples_per_shard=3)
    arguments = {split: str(folder / split), "eval_batch_size": 2} | arguments
    path = folder / "data.yaml"
    path.write_text(
        yaml.safe_dump({"data": {"class_path": "datamodules.shard_data.ShardData", "init_args": arguments}})
    )
    return path
