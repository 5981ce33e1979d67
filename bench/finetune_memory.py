"""Memory of fine-tuning at the published sizes, 512 px, with low-rank updates: counted, not measured.

The parts are built from their published configurations on the meta device and wired as in training. Counted are
weights (the language model's matrices in 4 bits with their scales, where the configuration says so), gradients, the
optimiser's moments, the averaged weights, and what the forward passes keep for the backward one, with and without
gradient checkpointing; with it also the largest block, whose activations are computed again. Not counted: CUDA's own
context, short-lived buffers inside operations, and what the allocator loses between blocks.

    python bench/finetune_memory.py [--batches 1 2 4]
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.stages.finetune import VARIANTS, Variant, build_finetune, fixed_bytes
from bench.stages.saved import saved_bytes
from bench.stages.sizes import PUBLISHED, Sizes

GIB = 2**30
GOAL = 22.0
"""GiB, of the 24 that such a GPU has."""


def rows(batches: Sequence[int], sizes: Sizes = PUBLISHED, variants: Sequence[Variant] = VARIANTS) -> list[str]:
    """Lines of the table: one a variant, checkpointing and number of samples a forward."""
    lines = ["variant                        trained M  fixed GiB  checkpointing  micro-batch  kept GiB  sum GiB"]
    for variant in variants:
        for checkpointing in (True, False):
            stage = build_finetune(variant, sizes, checkpointing)
            trained = sum(parameter.numel() for parameter in stage.parameters() if parameter.requires_grad)
            fixed, kept = fixed_bytes(stage, variant), saved_bytes(stage, sizes, checkpointing)
            for size in batches:
                lines.append(
                    f"{variant.name:<30} {trained / 1e6:>9.2f} {fixed / GIB:>10.2f} "
                    f"{'on' if checkpointing else 'off':>14} {size:>12} {size * kept / GIB:>9.2f} "
                    f"{(fixed + size * kept) / GIB:>8.2f}"
                )
    return lines


def main() -> None:
    """Count and print; the last line is the sum of configs/finetune/lora.yaml."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4], help="samples a forward")
    options = parser.parse_args()
    lines = rows(options.batches)
    print("\n".join(lines))
    total = float(rows([2], variants=VARIANTS[:1])[1].split()[-1])
    print(f"finetune_memory ratio {total / GOAL:.3f} (goal at most 1: {total:.1f} of {GOAL:.0f} GiB, counted)")


if __name__ == "__main__":
    main()
