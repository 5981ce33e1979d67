"""What one training step of each stage of MMIG costs at the published sizes: memory and floating-point operations.

Counted by construction, without weights and without a GPU: the parts are built from their published configurations on
the meta device and wired as in training (`bench/stages/`). Printed are the forward cost of each part for one sample of
512 px, and for each stage the parameters, the memory that does not depend on the batch (frozen weights in bfloat16;
trained ones, their gradients and AdamW's two moments in float32; the averaged weights of the EMA apart), and the
operations of a step for one sample, forward and backward, without what gradient checkpointing computes again.

    python bench/stage_cost.py [--stages 1 5]
    python bench/stage_cost.py --config configs/instruct_pix2pix/published.yaml [--config FILE ...] [more of train.py]

The second counts any training configuration, merged as train.py merges it, at the resolution of its data (--resolution
says otherwise), in the precision that it loads weights in, by AdamW, with nothing cached. A module that looks at
values, which the meta device has not, or that has several optimisers takes a step on the CPU if it has few parameters.
The days of one GPU are computed from these operations, `trainer.max_steps` and the data's `global_batch_size`, with the
peak and the share of it that bench/cluster_sizing.py assumes.
`bench/gpu.py` measures the same steps.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster_sizing import PEAK, UTILISATION, days
from bench.stages.build import STAGES, build_stage
from bench.stages.configured import Configured, build_configured, configured_cost, read_configs, real_cost
from bench.stages.count import Pieces, forward_operations, memory, step_operations
from bench.stages.sizes import PUBLISHED, SMALL, Sizes
from bench.tools.devices import GIB, TERA
from mmig.base.commands import OptionParser, one_line_errors
from mmig.training.module import TrainingModule

HEAD = "  trained M  frozen M   weights  gradients  AdamW   sum GiB   EMA GiB   TFLOP a sample"
LARGEST_REAL = 200_000_000
"""Parameters of a module whose step is taken on the CPU only to be counted."""


def count(numbers: Sequence[int], sizes: Sizes = PUBLISHED) -> list[str]:
    """Lines of the two tables of counted cost: the parts of the last stage asked for, and the stages."""
    rows = [f"stage {HEAD}"]
    known: dict[tuple, int] = {}
    for number in numbers:
        stage = build_stage(STAGES[number], sizes, "meta")
        pieces = Pieces(stage.mmig, sizes)
        rows.append(row(f"{number:>5}", stage, step_operations(stage, pieces, known)))
    head = f"forward of one sample, {sizes.resolution} px, TFLOP: "
    parts = forward_operations(pieces)
    return [head + ", ".join(f"{name} {value / TERA:.2f}" for name, value in parts.items()), "", *rows]


def count_configured(configured: Configured, sizes: Sizes = PUBLISHED) -> list[str]:
    """Lines of the table of a configuration; published parts and the resolution are as `sizes` says."""
    module, cost = build_configured(configured, sizes, "meta"), configured_cost(configured, sizes)
    if cost.operations is None and sum(parameter.numel() for parameter in module.parameters()) <= LARGEST_REAL:
        cost = real_cost(configured, sizes)
    label = f"{configured.name:>5}"
    kind = configured.settings["model"]["class_path"]
    return [
        f"{kind}, one sample, {sizes.resolution} px, {cost.how}",
        "",
        f"{'':{len(label)}} {HEAD}",
        row(label, module, cost.operations),
        *duration(configured, cost.operations),
    ]


def duration(configured: Configured, operations: float | None) -> list[str]:
    """A line that says how long a configuration's training takes on one GPU, computed; none where that is not known."""
    steps = configured.settings["trainer"].get("max_steps") or -1
    batch = configured.settings["data"]["init_args"].get("global_batch_size")
    if operations is None or batch is None or steps < 1:
        return []
    took = days(steps * batch, operations, 1, PEAK * TERA, UTILISATION)
    return [
        "",
        f"{steps:,} steps of {batch} samples: {took:.2f} days of one GPU of {PEAK:g} TFLOP/s (A100, bfloat16), were "
        f"{UTILISATION:.0%} of them reached",
    ]


def row(label: str, module: TrainingModule, operations: float | None) -> str:
    """A row of either table, its first column filled."""
    found = memory(module)
    step = (
        "-" if operations is None else f"{operations / TERA:.3g}" if operations < TERA else f"{operations / TERA:.2f}"
    )
    return (
        f"{label} {found.trained / 1e6:>11.3f} {found.frozen / 1e6:>9.0f} {found.weights / GIB:>9.2f} "
        f"{found.gradients / GIB:>10.2f} {found.moments / GIB:>6.2f} {found.total / GIB:>9.2f} "
        f"{found.average / GIB:>9.2f} {step:>16}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Count and print."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--stages", type=int, nargs="+", choices=STAGES, help="default: all, or none beside a --config")
    parser.add_argument("--config", action="append", metavar="FILE", help="count this training configuration")
    parser.add_argument("--resolution", type=int, help="pixels (default: 512; of a configuration its data's)")
    parser.add_argument("--sizes", choices=("published", "small"), default="published")
    options, more = parser.parse_known_args(arguments)
    if more and not options.config:
        parser.error(f"{' '.join(more)}: options of train.py need a --config")
    sizes = {"published": PUBLISHED, "small": SMALL}[options.sizes]
    if options.stages or not options.config:
        chosen = replace(sizes, resolution=options.resolution or sizes.resolution)
        print("\n".join(count(options.stages or list(STAGES), chosen)))
    if options.config:
        with one_line_errors():
            configured = read_configs(options.config, more)
            chosen = replace(sizes, resolution=options.resolution or configured.resolution or sizes.resolution)
            print("\n".join(count_configured(configured, chosen)))


if __name__ == "__main__":
    main()
