"""Memory of fine-tuning at the published sizes, 512 px, with low-rank updates: counted, not measured.

The parts are built from their published configurations on the meta device and wired as in training. Counted are
weights (the language model's matrices in 4 bits with their scales, where the configuration says so), gradients, the
optimiser's moments, the averaged weights, and what the forward passes keep for the backward one, with and without
gradient checkpointing; with it also the largest block, whose activations are computed again. Attention is counted with
its matrix written out, which fused kernels do not keep: an upper bound. Not counted: CUDA's own context, short-lived
buffers inside operations, and what the allocator loses between blocks.

    python bench/finetune_memory.py
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.stages.finetune import VARIANTS, Variant, build_finetune, fixed_bytes
from bench.stages.saved import saved_bytes
from bench.stages.sizes import PUBLISHED, Sizes
from bench.tools.devices import GIB

BATCHES = (1, 2, 4)
"""Samples a forward."""
GOAL = 22.0
"""GiB, of the 24 that such a GPU has."""
HEAD = "variant                           trained M  fixed GiB  checkpointing  micro-batch  kept GiB  sum GiB"


@dataclass(frozen=True)
class Row:
    """Bytes of a variant: what does not depend on the batch, and what each sample of a forward keeps."""

    variant: Variant
    checkpointing: bool
    trained: int
    fixed: int
    kept: int

    def total(self, size: int) -> float:
        """GiB with `size` samples a forward."""
        return (self.fixed + size * self.kept) / GIB

    def line(self, size: int) -> str:
        """One line of the table."""
        return (
            f"{self.variant.name:<33} {self.trained / 1e6:>9.2f} {self.fixed / GIB:>10.2f} "
            f"{'on' if self.checkpointing else 'off':>14} {size:>12} {size * self.kept / GIB:>9.2f} "
            f"{self.total(size):>8.2f}"
        )


def counted(sizes: Sizes = PUBLISHED, variants: Sequence[Variant] = VARIANTS) -> Iterator[Row]:
    """Each variant with and without checkpointing."""
    known: dict[tuple, int] = {}  # what is kept depends on neither the optimiser nor the bits of frozen weights
    for variant in variants:
        for checkpointing in (True, False):
            stage = build_finetune(variant, sizes, checkpointing)
            key = (variant.kind, repr(variant.updates), checkpointing)
            if key not in known:
                known[key] = saved_bytes(stage, sizes, checkpointing)
            trained = sum(parameter.numel() for parameter in stage.parameters() if parameter.requires_grad)
            yield Row(variant, checkpointing, trained, fixed_bytes(stage, variant), known[key])


def main() -> None:
    """Count and print; the last line is the sum of configs/finetune/lora.yaml, whose micro-batch is 2."""
    print(HEAD)
    found = []
    for row in counted():
        found.append(row)
        print("\n".join(row.line(size) for size in BATCHES), flush=True)
    total = found[0].total(2)
    print(f"finetune_memory ratio {total / GOAL:.3f} (goal at most 1: {total:.1f} of {GOAL:.0f} GiB, counted)")


if __name__ == "__main__":
    main()
