"""What training on many GPUs sends, and how efficient it can be: 1 to 64 nodes of 8 A100, each stage, each strategy.

On paper, from the parts at the published sizes (built on the meta device). P are a stage's trained parameters, n the
GPUs that share one copy; frozen weights lie whole on each GPU (`shard_frozen` names none) and send nothing. A GPU sends

    all-reduce of S bytes among n         2 (n-1)/n S         gather or reduce-scatter       (n-1)/n S
    DDP      2 (n-1)/n 4P                                     gradients in float32
    FSDP2    (n-1)/n sum over units (w passes + 4) P_unit
             a unit is gathered in w bytes a weight for each of its forward and backward passes; its gradients add up
             over the passes and are scattered once; what is in no unit has two passes
    HSDP     as FSDP2 within a node, and 2 (m-1)/m 4P/8 among the m nodes

and takes, per bandwidth, seconds = bytes / within in a node; across nodes a node's 8 GPUs send over one link, on which
a ring of all GPUs puts what one GPU sends, and HSDP's 8 rings what 8 GPUs send. With a step's operations at the given
utilisation as compute: exposed = max(0, communication - overlap x compute), efficiency = compute / (compute + exposed).
Latency, stragglers and data are not in it.

    python bench/scaling.py [--stages 1 5] [--batch 4] [--within 230] [--between 25] [--utilisation 0.35]

The volumes of DDP and FSDP2 are then checked: two processes take a step of a stage at small sizes through gloo, and
the bytes that they write to their sockets (`bench/tools/traffic.py`) are compared with the formula.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from bench.stages.build import STAGES, build_stage
from bench.stages.count import Pieces, step_operations
from bench.stages.sizes import PUBLISHED, SMALL
from bench.tools.devices import GIGA, TERA, peak_of
from bench.tools.traffic import BLOCK, RANKS, sent
from mmig.base.commands import OptionParser
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.training.fsdp import UNITS

PER_NODE = 8
NODES = (1, 2, 4, 8, 16, 32, 64)
TOLERANCE = 0.05


@dataclass(frozen=True)
class Share:
    """Trained parameters that are gathered together, and how often in a step.

    Attributes:
        parameters: their number. passes: forward and backward ones, each of which gathers them.
    """

    parameters: int
    passes: int


def shares(stage: MMIGStage) -> list[Share]:
    """A stage's trained parameters in units of `FSDP2Strategy`, and the rest, which is gathered around the whole."""
    units, inside = [], set()
    for name, part in stage.named_modules():
        members = [p for p in part.parameters() if p.requires_grad]
        if type(part).__name__ in UNITS and members:
            units.append(Share(sum(p.numel() for p in members), passes(stage, name)))
            inside |= set(members)
    rest = sum(p.numel() for p in stage.parameters() if p.requires_grad and p not in inside)
    return [*units, Share(rest, 2)]


def passes(stage: MMIGStage, name: str) -> int:
    """Forward and backward passes of a module in a step: the denoiser runs as A, B and, without gradient, C."""
    if not name.startswith("mmig.unet"):
        return 2
    terms = stage.loss_weights.keys()
    layered, regions = not terms.isdisjoint({"fg", "bg"}), "ar" in terms
    return 2 * (1 + layered) + regions


def all_reduce(size: float, ranks: int) -> float:
    """Bytes that a rank sends to sum up `size` bytes among ranks, in a ring."""
    return 2 * (ranks - 1) / ranks * size


def ddp_bytes(parts: Sequence[Share], ranks: int) -> float:
    """Bytes that a rank sends in a step under DDP, gradients in float32."""
    return all_reduce(4 * sum(part.parameters for part in parts), ranks)


def fsdp_bytes(parts: Sequence[Share], ranks: int, width: int, scatter: float = 1.0) -> float:
    """Bytes that a rank sends in a step under FSDP2.

    Args:
        parts: units and the rest. ranks: that share a copy. width: bytes a gathered weight.
        scatter: bytes that a reduce-scatter sends, in parts of (n-1)/n of its input.
    """
    sizes = (part.parameters * (width * part.passes + scatter * 4) for part in parts)
    return (ranks - 1) / ranks * sum(sizes)


def replica_bytes(parts: Sequence[Share], nodes: int) -> float:
    """Bytes that a GPU sends in a step between the copies of HSDP, one on each node."""
    return all_reduce(4 * sum(part.parameters for part in parts) / PER_NODE, nodes)


@dataclass(frozen=True)
class Cluster:
    """What the estimate assumes.

    Attributes:
        within, between: bytes a second that a GPU sends in its node, and a node to others.
        overlap: part of the compute behind which communication hides. width: bytes of a gathered weight.
    """

    within: float
    between: float
    overlap: float
    width: int

    def seconds(self, way: str, parts: Sequence[Share], nodes: int) -> tuple[float, float]:
        """Bytes that a GPU sends in a step, and the time that takes."""
        ranks = PER_NODE * nodes
        ring = self.within if nodes == 1 else min(self.within, self.between)
        if way == "DDP":
            size = ddp_bytes(parts, ranks)
            return size, size / ring
        if way == "FSDP2":
            size = fsdp_bytes(parts, ranks, self.width)
            return size, size / ring
        inside, across = fsdp_bytes(parts, PER_NODE, self.width), replica_bytes(parts, nodes)
        return inside + across, inside / self.within + PER_NODE * across / self.between

    def efficiency(self, compute: float, communication: float) -> float:
        """Part of the time in which a GPU computes."""
        return compute / (compute + max(0.0, communication - self.overlap * compute))


def table(numbers: Sequence[int], cluster: Cluster, batch: int, rate: float) -> Iterator[str]:
    """Lines: for each stage and strategy GB that a GPU sends in a step and efficiency, by nodes.

    Args:
        numbers: stages. cluster: what is assumed. batch: samples a GPU and step. rate: operations a second.
    """
    known: dict[tuple, int] = {}
    yield (
        "stage  strategy  " + "".join(f"{f'{count} nodes':>14}" for count in NODES) + "   (GB a GPU sends, efficiency)"
    )
    for number in numbers:
        stage = build_stage(STAGES[number], PUBLISHED, "meta")
        compute = batch * step_operations(stage, Pieces(stage.mmig, PUBLISHED), known) / rate
        parts = shares(stage)
        for way in ("DDP", "FSDP2", "HSDP"):
            cells = []
            for nodes in NODES:
                size, seconds = cluster.seconds(way, parts, nodes)
                cells.append(f"{size / GIGA:>8.2f} {cluster.efficiency(compute, seconds):>4.0%} ")
            yield f"{number:>5}  {way:<8}  " + "".join(f"{cell:>14}" for cell in cells)
        yield f"       ({sum(part.parameters for part in parts) / 1e6:.1f} M trained, compute {compute:.2f} s a step)"


def check(number: int) -> Iterator[str]:
    """Lines: bytes that two ranks really sent through gloo as a part of what the formulas say."""
    stage = build_stage(STAGES[number], SMALL, "meta")
    parts, found = shares(stage), sent(("all_reduce", "all_gather", "reduce_scatter", "ddp", "fsdp2"), number)
    whole = (RANKS - 1) / RANKS * 4 * BLOCK
    scatter = found["reduce_scatter"] / whole
    yield (
        f"gloo sends {found['all_reduce'] / whole:.2f}, {found['all_gather'] / whole:.2f} and {scatter:.2f} times "
        "(n-1)/n S for an all-reduce, a gather and a reduce-scatter (a ring: 2, 1 and 1)"
    )
    expected = {"ddp": ddp_bytes(parts, RANKS), "fsdp2": fsdp_bytes(parts, RANKS, 4, scatter)}
    for way, size in expected.items():
        yield (
            f"scaling/{way}_volume ratio {found[way] / size:.3f} (goal 1 within {TOLERANCE:.0%}: stage {number} at "
            f"small sizes, {RANKS} ranks, {found[way] / 1e6:.2f} MB sent a rank and step, formula {size / 1e6:.2f} MB)"
        )


def main(arguments: list[str] | None = None) -> None:
    """Print the table and the check."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--batch", type=int, default=4, help="samples a GPU and step")
    parser.add_argument("--utilisation", type=float, default=0.35, help="part of an A100's peak that a step reaches")
    parser.add_argument("--within", type=float, default=230, help="GB/s that a GPU sends in its node (NVLink)")
    parser.add_argument("--between", type=float, default=25, help="GB/s that a node sends (25: one link of 200 Gbit/s)")
    parser.add_argument("--overlap", type=float, default=0.5, help="part of the compute that hides communication")
    parser.add_argument("--gathered", type=int, choices=(2, 4), default=2, help="bytes of a gathered weight")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cluster = Cluster(options.within * GIGA, options.between * GIGA, options.overlap, options.gathered)
    peak = peak_of("A100")
    print(
        f"assumed: A100, {peak / TERA:.0f} TFLOP/s at {options.utilisation:.0%}, {options.batch} samples each, "
        f"{PER_NODE} GPUs a node, {options.within:g} GB/s a GPU within and {options.between:g} GB/s a node "
        f"between, {options.overlap:.0%} of the compute hides it, weights gathered in {options.gathered} bytes"
    )
    print((__doc__ or "").split("\n\n")[2])
    print("\n".join(table(options.stages, cluster, options.batch, options.utilisation * peak)), flush=True)
    print("\n".join(check(3)))


if __name__ == "__main__":
    main()
