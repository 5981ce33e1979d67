"""Trains small stages on the ranks that the environment names (torchrun), and leaves losses and weights behind.

    torchrun --nproc_per_node 2 tests/integration/rank_cases.py BACKBONES OUT CASE...

A case is STAGE:STRATEGY:MICRO_BATCH_SIZE ("stage5:fsdp2:1"; 0 for the whole part), the strategy one of those below.
Rank 0 writes OUT/CASE.pt.
"""

import dataclasses
import importlib
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import lightning as L
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from datamodules.schema import Batch, collate
from datamodules.tinyworld.sample import make_sample
from mmig.training.agreement import leave_process_group
from mmig.training.fsdp import FSDP2Strategy
from mmig.training.optim import OptimizerConfig
from mmig.training.sharding import full
from tests.mmig.methods.mmig.stages.support import settled_stage
from tests.tiny_fixtures import TinyBackbones

NUM_STEPS = 2
GLOBAL_BATCH = 4
BARE = ({"key", "instruction", "response"}, {"key", "target", "target_caption"})
"""Fields of the last two samples of each global batch, which are a rank's whole part: the other rank has all fields."""


def part_of(step: int, rank: int, world_size: int) -> Batch:
    """A rank's part of a global batch, of which the second half lacks nearly everything."""
    share = GLOBAL_BATCH // world_size
    first = step * GLOBAL_BATCH + rank * share
    samples = []
    for position in range(first, first + share):
        sample = make_sample(0, "val", position, photographs=False)
        place = position % GLOBAL_BATCH - GLOBAL_BATCH // 2
        samples.append(sample if place < 0 else {name: value for name, value in sample.items() if name in BARE[place]})
    return collate(samples, positions=range(first, first + share), size=(64, 64))


REDUCED: Counter[str] = Counter()
"""Buckets or groups of gradients that were reduced."""


def reduce_bucket(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """What DDP does by itself, counted."""
    REDUCED["groups"] += 1
    return allreduce_hook(state, bucket)


def count_reduce_scatters() -> None:
    """Count what FSDP2 reduces."""
    for name in {"reduce_scatter_tensor", "reduce_scatter_single"} & set(vars(dist)):  # before and since torch 2.15
        setattr(dist, name, _counted(getattr(dist, name)))


def _counted(reduce: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        REDUCED["groups"] += 1
        return reduce(*args, **kwargs)

    return counted


STRATEGIES: dict[str, Callable[[], Any]] = {
    "one": lambda: "auto",
    "ddp": lambda: "ddp",
    "fsdp2": FSDP2Strategy,
    "fsdp2-frozen": lambda: FSDP2Strategy(shard_frozen=["mmig.mllm.llm", "mmig.captioner"]),
    "fsdp2-kept": lambda: FSDP2Strategy(reshard_after_forward=False),
    "fsdp2-bf16": lambda: FSDP2Strategy(param_dtype="bfloat16"),
    "hsdp": lambda: FSDP2Strategy(replicas=2),
}


class Parts:
    """The batches of one rank."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        for step in range(NUM_STEPS):
            yield part_of(step, self.rank, self.world_size)


class Losses(L.Callback):
    """Keeps the loss of each step, and counts what DDP reduces."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(trainer.model, DistributedDataParallel):  # Lightning hooks in on GPUs only
            trainer.model.register_comm_hook(None, reduce_bucket)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.losses.append(pl_module.outcome.loss)


def run(folders: TinyBackbones, case: str, out: Path) -> None:
    """Train one case and write what came of it."""
    stage, strategy, micro_batch = case.split(":")
    kind = getattr(importlib.import_module("mmig.methods.mmig.stages.paper"), stage.capitalize())
    module = settled_stage(folders, kind, optimizer=OptimizerConfig(lr=1e-3), micro_batch_size=int(micro_batch) or None)
    losses = Losses()
    trainer = L.Trainer(
        accelerator="cpu", devices=int(os.environ["WORLD_SIZE"]), strategy=STRATEGIES[strategy](), max_steps=NUM_STEPS,
        precision="bf16-mixed" if strategy.endswith("bf16") else "32-true",
        callbacks=[losses], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    REDUCED.clear()
    trainer.fit(module, Parts(trainer.global_rank, trainer.world_size))
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    weights = {name: full(parameter.detach()) for name, parameter in trained}
    if trainer.is_global_zero:
        torch.save({"losses": losses.losses, "weights": weights, "reduced": REDUCED["groups"]}, out / f"{case}.pt")


def main() -> None:
    """Run every case of the command line."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    root, out, *cases = sys.argv[1:]
    count_reduce_scatters()
    folders = TinyBackbones(*(Path(root) / field.name.replace("_", "-") for field in dataclasses.fields(TinyBackbones)))
    for case in cases:
        run(folders, case, Path(out))
    leave_process_group()


if __name__ == "__main__":
    main()
