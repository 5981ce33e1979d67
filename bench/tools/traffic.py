"""What two ranks really send in a training step: bytes that each process writes to its sockets through gloo.

Linux counts what a process writes in /proc/self/io ("wchar", sockets included); nothing else is written during the
step, and other processes do not matter. Gloo's messages have headers of some bytes each, which are in the figure.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.parallel import DistributedDataParallel

from bench.stages.build import STAGES, build_stage, random_batch
from bench.stages.sizes import SMALL
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.training.fsdp import UNITS, shard
from mmig.training.rng import Draws

Way = Literal["ddp", "fsdp2", "all_reduce", "all_gather", "reduce_scatter"]
RANKS = 2
BLOCK = 1 << 20
"""Numbers in the tensor of a lone collective."""


def written() -> int:
    """Bytes that this process has written so far, to files and sockets."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


class Total(nn.Module):
    """A stage's total loss as a forward, which is what DDP wraps."""

    def __init__(self, stage: MMIGStage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, rank: int) -> Tensor:
        """Of two samples of this rank."""
        batch = random_batch(2, SMALL)
        draws = Draws(0, torch.arange(2) + 2 * rank)
        values, _ = self.stage.computed(self.stage.losses(batch, draws))
        return values.mean(dim=0).sum()


def sent(ways: Sequence[Way], number: int = 3) -> dict[Way, int]:
    """Bytes that a rank sends at most in one step of a stage at the small sizes, or in one lone collective.

    Args:
        ways: "ddp", "fsdp2" (frozen weights whole, gathered weights freed after each forward, all float32); or a
            collective on `BLOCK` numbers in float32.
        number: of the stage.
    """
    with tempfile.TemporaryDirectory() as folder:
        # forks have imported everything already
        mp.start_processes(_rank, (tuple(ways), number, folder), nprocs=RANKS, start_method="fork")
        found = [json.loads(file.read_text()) for file in Path(folder).glob("sent-*")]
    return {way: max(counts[way] for counts in found) for way in ways}


def _rank(rank: int, ways: tuple[Way, ...], number: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=300))
    counts = {}
    for way in ways:
        torch.manual_seed(0)
        step = _training(way, number, rank) if way in ("ddp", "fsdp2") else _collective(way)
        step()  # DDP lays its buckets out anew after the first step
        step()
        before = written()
        step()
        counts[way] = written() - before
    Path(folder, f"sent-{rank}").write_text(json.dumps(counts), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _collective(way: Way) -> Callable[[], object]:
    whole, part = torch.ones(BLOCK), torch.ones(BLOCK // RANKS)
    return {
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole),
    }[way]


def _training(way: Way, number: int, rank: int) -> Callable[[], object]:
    stage = build_stage(STAGES[number], SMALL, torch.device("cpu"), dtype=torch.float32)
    total: nn.Module = Total(stage)
    if way == "ddp":
        total = DistributedDataParallel(total, gradient_as_bucket_view=True)  # buffers are broadcast, and few
    else:
        frozen = {parameter for parameter in stage.parameters() if not parameter.requires_grad}
        mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("shard",))
        shard(stage, mesh, UNITS, MixedPrecisionPolicy(), {"reshard_after_forward": True, "ignored_params": frozen})
    optimizer = torch.optim.SGD([p for p in stage.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        total(rank).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
