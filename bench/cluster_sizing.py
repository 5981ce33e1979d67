"""GPUs, memory and days of each stage at the published sizes, computed from counted figures; nothing is run.

    days = steps x global batch x FLOP a sample / (GPUs x peak FLOP/s x utilisation) / 86,400

FLOP a sample and bytes of states are those of bench/stage_cost.py, which counts them on the meta device: forward and
backward of the longest texts, without what gradient checkpointing computes again. Steps are trainer.max_steps of
configs/mmig. Peak and utilisation are assumptions: the peak of a dense bfloat16 product in the data sheet of an A100,
and the share of it that published trainings of diffusion models reach, 24 % (256 px) and 28 % (512 px) for Stable
Diffusion 2 on A100s (mosaicml/diffusion). Validation, evaluation, checkpoints and start-up are not in it.

    python bench/cluster_sizing.py [--global-batch 256] [--gpus 8 32 128] [--peak 312] [--utilisation 0.25]

The table of docs/cluster.md is what this prints without arguments.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from bench.stages.build import STAGES, build_stage
from bench.stages.count import Memory, Pieces, memory, step_operations
from bench.stages.sizes import PUBLISHED, Sizes
from bench.tools.devices import GIB, TERA
from mmig.base.commands import OptionParser

ROOT = Path(__file__).resolve().parent.parent
SECONDS_A_DAY = 86_400
PEAK, UTILISATION = 312.0, 0.25
"""What is assumed unless something else is asked for: TFLOP/s of an A100, and the share of it that is reached."""
CARDS = (24, 40, 80)
"""Memory of the GPUs that are common, GB."""
ACTIVATIONS = 0.25
"""Share of a card that stays free for activations, CUDA's context and fragments when the smallest card is chosen."""


def days(samples: float, operations: float, gpus: int, peak: float, utilisation: float) -> float:
    """Days of a training.

    Args:
        samples: steps times the global batch.
        operations: floating-point operations a sample, forward and backward.
        gpus: how many.
        peak: floating-point operations a second of one.
        utilisation: share of the peak that is reached, in (0, 1].
    """
    return samples * operations / (gpus * peak * utilisation) / SECONDS_A_DAY


def smallest_card(states: float) -> int | None:
    """The smallest common GPU, GB, that holds these bytes beside activations; None where none does."""
    return next((card for card in CARDS if states <= (1 - ACTIVATIONS) * card * 1e9), None)


def states(found: Memory) -> int:
    """Bytes of weights, gradients, AdamW's moments and the EMA of one process under DDP."""
    return found.total + found.average


def table(
    global_batch: int, gpus: Sequence[int], peak: float, utilisation: float, sizes: Sizes = PUBLISHED
) -> list[str]:
    """Lines of a Markdown table, a row a stage; `peak` in TFLOP/s."""
    head = ["stage", "steps", "TFLOP a sample", "states a GPU, GiB", "card, GB", *(f"days on {n} GPUs" for n in gpus)]
    rows = [head, ["---"] * len(head)]
    known: dict[tuple, int] = {}
    for number, kind in STAGES.items():
        stage = build_stage(kind, sizes, "meta")
        operations, held = step_operations(stage, Pieces(stage.mmig, sizes), known), states(memory(stage))
        steps = configured_steps(number)
        took = [days(steps * global_batch, operations, n, peak * TERA, utilisation) for n in gpus]
        cells = [number, f"{steps:,}", f"{operations / TERA:.1f}", f"{held / GIB:.1f}", smallest_card(held) or "none"]
        rows.append([str(cell) for cell in cells] + [f"{value:.1f}" for value in took])
    return ["| " + " | ".join(row) + " |" for row in rows]


def configured_steps(number: int) -> int:
    """Steps of a stage's published configuration."""
    config = yaml.safe_load((ROOT / f"configs/mmig/stage{number}.yaml").read_text(encoding="utf-8"))
    return config["trainer"]["max_steps"]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--global-batch", type=int, default=256, help="samples a step over all GPUs (default: 256)")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 32, 128], help="numbers of GPUs (default: 8 32 128)")
    parser.add_argument("--peak", type=float, default=PEAK, help="TFLOP/s of one GPU (default: 312, A100 bfloat16)")
    parser.add_argument("--utilisation", type=float, default=UTILISATION, help="share of the peak (default: 0.25)")
    return parser


def main() -> None:
    """Print the table."""
    options = build_parser().parse_args()
    print("\n".join(table(options.global_batch, options.gpus, options.peak, options.utilisation)))


if __name__ == "__main__":
    main()
