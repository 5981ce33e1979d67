"""What one training step of each stage of MMIG costs at the published sizes: memory and floating-point operations.

Counted by construction, without weights and without a GPU: the parts are built from their published configurations on
the meta device and wired as in training (`bench/stages/`). Printed are the forward cost of each part for one sample of
512 px, and for each stage the parameters, the memory that does not depend on the batch (frozen weights in bfloat16;
trained ones, their gradients and AdamW's two moments in float32; the averaged weights of the EMA apart), and the
operations of a step for one sample, forward and backward, without what gradient checkpointing computes again.

    python bench/stage_cost.py [--stages 1 5]

`bench/gpu.py` measures the same steps.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.stages.build import STAGES, build_stage
from bench.stages.count import Pieces, forward_operations, memory, step_operations
from bench.stages.sizes import PUBLISHED, Sizes
from bench.tools.devices import GIB, TERA


def count(numbers: Sequence[int], sizes: Sizes = PUBLISHED) -> list[str]:
    """Lines of the two tables of counted cost: the parts of the last stage asked for, and the stages."""
    rows = ["stage   trained M  frozen M   weights  gradients  AdamW   sum GiB   EMA GiB   TFLOP a sample"]
    known: dict[tuple, int] = {}
    for number in numbers:
        stage = build_stage(STAGES[number], sizes, "meta")
        pieces, found = Pieces(stage.mmig, sizes), memory(stage)
        rows.append(
            f"{number:>5} {found.trained / 1e6:>11.3f} {found.frozen / 1e6:>9.0f} {found.weights / GIB:>9.2f} "
            f"{found.gradients / GIB:>10.2f} {found.moments / GIB:>6.2f} {found.total / GIB:>9.2f} "
            f"{found.average / GIB:>9.2f} {step_operations(stage, pieces, known) / TERA:>16.2f}"
        )
    head = f"forward of one sample, {sizes.resolution} px, TFLOP: "
    parts = forward_operations(pieces)
    return [head + ", ".join(f"{name} {value / TERA:.2f}" for name, value in parts.items()), "", *rows]


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, nargs="+", choices=STAGES, default=list(STAGES))
    print("\n".join(count(parser.parse_args().stages)))


if __name__ == "__main__":
    main()
