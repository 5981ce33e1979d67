"""What one training step of each stage of MMIG costs at the published sizes: memory and floating-point operations.

Counted by construction, without weights and without a GPU: the parts are built from their published configurations on
the meta device and wired as in training (`bench/stages/`). Printed are the forward cost of each part for one sample of
512 px, and for each stage the parameters, the memory that does not depend on the batch (frozen weights in bfloat16;
trained ones, their gradients and AdamW's two moments in float32; the averaged weights of the EMA apart), and the
operations of a step for one sample, forward and backward, without what gradient checkpointing computes again.

    python bench/stage_cost.py [--stages 1 5]

On a GPU, `--measure` builds the same parts with random weights, runs training steps on random samples and prints the
peak memory (without the EMA) and the seconds of a step, checkpointing off and on:

    python bench/stage_cost.py --measure [--stages 1 5] [--batches 1 4] [--steps 5]
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from PIL import Image

from bench.stages.build import STAGES, build_stage
from bench.stages.count import Pieces, forward_operations, memory, step_operations
from bench.stages.sizes import PUBLISHED, Sizes
from datamodules.schema import Batch, collate
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.training.optim import OptimizerConfig, build_optimizer
from mmig.training.rng import Draws

GIB, TERA = 2**30, 1e12


@dataclass(frozen=True)
class Cost:
    """What a measured step took.

    Attributes:
        seconds: median of the steps.
        peak: bytes, weights included; None where the device does not count them (CPU).
        loss: total of the last step, to see that it was a number.
    """

    seconds: float
    peak: int | None
    loss: float


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


def random_batch(size: int, sizes: Sizes) -> Batch:
    """Samples with every field and texts longer than what is read of them, so that each step is the largest."""
    side = sizes.resolution
    half = Image.new("L", (side, side))
    half.paste(255, (0, 0, side // 2, side))
    text = "a red circle and a blue square on a white background, " * 40
    samples = [
        {
            "key": f"sample{number}",
            "source": Image.effect_noise((side, side), 64).convert("RGB"),
            "target": Image.effect_noise((side, side), 64).convert("RGB"),
            "instruction": text[:400],
            "response": text,
            "target_caption": text,
            "object_phrase": "a red circle",
            "background_phrase": "a white background",
            "target_mask": half,
            "reference_mask": half,
            "concepts": [{"phrase": "red circle"}, {"phrase": "blue square"}],
        }
        for number in range(size)
    ]
    return collate(samples)


def measure(stage: MMIGStage, batch: Batch, steps: int, device: torch.device) -> Cost:
    """Run training steps of a stage as its training does: losses (under autocast where backbones are in bfloat16),
    backward, clipping, AdamW.

    Args:
        stage: built on `device`.
        batch: of samples, on the CPU; each step draws other noise and timesteps.
        steps: to time, after one that warms up.
        device: where it runs.
    """
    on_gpu = device.type == "cuda"
    optimizer = build_optimizer(stage.named_parameters(), OptimizerConfig())
    trained = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    batch = stage.transfer_batch_to_device(batch, device, 0)
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    times, loss = [], torch.zeros(())
    for step in range(steps + 1):
        start = time.perf_counter()
        draws = Draws(step, batch["position"])
        with torch.autocast(device.type, torch.bfloat16, enabled=stage.mmig.vae.dtype == torch.bfloat16):
            values, counts = stage.losses(batch, draws), stage.loss_counts(batch, draws)
            means = {name: (values[name] * counts[name]).sum() / counts[name].sum().clamp(min=1) for name in values}
            loss = torch.stack([weight * means[name].float() for name, weight in stage.loss_weights.items()]).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        if on_gpu:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else None
    return Cost(median(times[1:] or times), peak, float(loss.detach()))


def measured(
    numbers: Sequence[int],
    batches: Sequence[int],
    steps: int,
    device: torch.device,
    sizes: Sizes = PUBLISHED,
    dtype: torch.dtype = torch.bfloat16,
) -> list[str]:
    """Lines of the table of measured cost."""
    rows = ["stage  checkpointing  batch   peak GiB   seconds a step   samples/s"]
    for number, checkpointing in product(numbers, (False, True)):
        stage = build_stage(STAGES[number], sizes, device, dtype=dtype, checkpointing=checkpointing)
        for size in batches:
            cells = f"{number:>5}  {'on' if checkpointing else 'off':>13} {size:>6}"
            try:
                cost = measure(stage, random_batch(size, sizes), steps, device)
            except torch.OutOfMemoryError:
                rows.append(f"{cells}   out of memory")
                stage.zero_grad()
                continue
            peak = "-" if cost.peak is None else f"{cost.peak / GIB:.1f}"
            rows.append(f"{cells} {peak:>10} {cost.seconds:>16.3f} {size / cost.seconds:>11.2f}")
        del stage
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows


def main() -> None:
    """Count, or measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--measure", action="store_true", help="run steps on a GPU instead of counting")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="samples a step, with --measure")
    parser.add_argument("--steps", type=int, default=5, help="timed steps, with --measure")
    options = parser.parse_args()
    if not options.measure:
        print("\n".join(count(options.stages)))
        return
    if not torch.cuda.is_available():
        parser.exit(2, "--measure needs a CUDA device, found none; without it the cost is counted\n")
    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, bfloat16, {PUBLISHED.resolution} px")
    print("\n".join(measured(options.stages, options.batches, options.steps, device)))


if __name__ == "__main__":
    main()
