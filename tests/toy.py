"""A regression small enough to train in a test, with the batches that a training module expects."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from mmig.callbacks.ema import EMA
from mmig.callbacks.run_checkpoint import RunCheckpoint
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws, generator
from mmig.training.terms import LossTerm

NUM_FEATURES = 3


class ToyModule(TrainingModule):
    """Learns the sum of its inputs; every third sample has no "l1" target."""

    def __init__(self, optimizer: OptimizerConfig | None = None, dropout: float = 0.0, **settings: Any) -> None:
        super().__init__(optimizer or OptimizerConfig(lr=1e-2, warmup_steps=5), {"squared": 1.0, "l1": 0.5}, **settings)
        self.net = nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.Dropout(dropout), nn.Linear(8, 1))

    def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
        error = cache(lambda: self.error(batch["inputs"], draws))
        return {
            "squared": LossTerm(torch.ones(len(batch["inputs"])), lambda: error() ** 2),
            "l1": LossTerm(batch["position"] % 3 != 0, lambda: error().abs()),
        }

    def error(self, inputs: Tensor, draws: Draws) -> Tensor:
        noisy = inputs + 0.1 * draws.normal("noise", (NUM_FEATURES,)).to(self.device)
        return self.net(noisy).squeeze(1) - inputs.sum(1)

    def timesteps(self, draws: Draws) -> Tensor:
        return draws.integers("timestep", 1000)


class ToyStage(ToyModule):
    """A later stage: a named backbone, the identity, that it may train, and a part that is new in it.

    Args:
        train_backbone: otherwise the backbone is frozen.
        new: with the new part.
    """

    new_parts = ("head",)

    def __init__(
        self,
        optimizer: OptimizerConfig | None = None,
        train_backbone: bool = False,
        new: bool = False,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, micro_batch_size=micro_batch_size)
        self.backbone = nn.Linear(NUM_FEATURES, NUM_FEATURES, bias=False).requires_grad_(train_backbone)
        nn.init.eye_(self.backbone.weight)
        self.head = nn.Linear(NUM_FEATURES, NUM_FEATURES) if new else nn.Identity()

    def error(self, inputs: Tensor, draws: Draws) -> Tensor:
        return super().error(self.head(self.backbone(inputs)), draws)

    def named_backbones(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone}


class ToyStream:
    """Batches of an endless set of samples; the position is its state."""

    def __init__(self, num_batches: int, global_batch_size: int, rank: int, world_size: int, position: int = 0) -> None:
        self.num_batches, self.global_batch_size = num_batches, global_batch_size
        self.rank, self.world_size, self.position = rank, world_size, position

    def __len__(self) -> int:
        return self.num_batches - self.position // self.global_batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        part = self.global_batch_size // self.world_size
        while len(self) > 0:
            first = self.position + self.rank * part
            self.position += self.global_batch_size
            positions = torch.arange(first, first + part)
            inputs = torch.stack([torch.randn(NUM_FEATURES, generator=generator(int(p))) for p in positions])
            yield {"key": [str(int(p)) for p in positions], "position": positions, "inputs": inputs, "faults": []}


class ToyData(L.LightningDataModule):
    """Stream whose position travels in the checkpoint."""

    def __init__(self, global_batch_size: int = 12) -> None:
        super().__init__()
        self.global_batch_size = global_batch_size
        self.position = 0

    def train_dataloader(self) -> ToyStream:
        self.stream = self._stream(10_000, self.position)
        return self.stream

    def val_dataloader(self) -> ToyStream:
        return self._stream(3)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.stream.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.position = state_dict["position"]

    def _stream(self, num_batches: int, position: int = 0) -> ToyStream:
        return ToyStream(
            num_batches, self.global_batch_size, self.trainer.global_rank, self.trainer.world_size, position
        )


def fit(
    module: ToyModule,
    directory: Path,
    max_steps: int,
    resume: Path | None = None,
    devices: int = 1,
    every_n_steps: int = 1000,
    more_callbacks: Sequence[L.Callback] = (),
    data: L.LightningDataModule | None = None,
    **trainer_settings: Any,
) -> L.Trainer:
    """Train on CPU and leave checkpoints in `directory`."""
    trainer = L.Trainer(
        max_epochs=-1,
        max_steps=max_steps,
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        callbacks=[EMA(0.9), RunCheckpoint(str(directory), every_n_steps), *more_callbacks],
        logger=False,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer_settings,
    )
    trainer.fit(module, data or ToyData(), ckpt_path=resume, weights_only=True)
    return trainer
