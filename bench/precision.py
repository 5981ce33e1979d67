"""Training steps on this processor in float32 and in bfloat16, of which `trainer.precision: auto` chooses one.

Both take the steps of the same configuration in processes of their own, in turn, on one thread; attention in bfloat16
is two products and a softmax, as train.py has it. The figure is bfloat16's steps/s over float32's, medians of rounds.

    python bench/precision.py [--config FILE ...] [--batch 16] [--steps 6] [--rounds 2]
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.tools.steps_apart import step_seconds
from mmig.base.commands import OptionParser, positive
from mmig.run.precision import MIXED, SINGLE, chosen_precision, multiplies_bfloat16

CONFIGS = ["configs/demo/stage1.yaml", "configs/demo/instruct_pix2pix.yaml"]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a line for each configuration."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", default=CONFIGS, help="whose steps")
    parser.add_argument("--batch", type=positive, default=16, help="samples a step")
    parser.add_argument("--steps", type=positive, default=6, help="timed steps of a process")
    parser.add_argument("--rounds", type=positive, default=2)
    options = parser.parse_args(arguments)
    products = "with" if multiplies_bfloat16() else "without"
    for config in options.config:
        seconds: dict[str, list[float]] = {SINGLE: [], MIXED: []}
        for _ in range(options.rounds):
            for name, taken in seconds.items():
                taken.append(step_seconds(config, options.batch, options.steps, "--precision", name))
        single, mixed = (statistics.median(taken) for taken in seconds.values())
        print(
            f"precision/{Path(config).parent.name}/{Path(config).stem} ratio {single / mixed:.2f} (no goal: "
            f"{1 / mixed:.3g} steps/s in {MIXED}, {1 / single:.3g} in {SINGLE}, {options.batch} samples a step; "
            f"a processor {products} products of bfloat16, auto is {chosen_precision('cpu')}; "
            f"load {os.getloadavg()[0]:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
