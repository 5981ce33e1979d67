"""Does the trainer cost anything? Steps/s of a training module under our trainer against a bare loop over the same.

One line for a small denoiser whose depth is chosen so that a step takes about 50 ms here, and one for each stage of
MMIG as configs/demo trains it (assets/tiny, 64 px). Both sides take the same batches of the small world (with texts,
masks and metadata), draw the same noise, compute the same losses, clip and step the same fused AdamW and average the
weights. Lightning's side alone has what every run has beside, as train.py sets it up: its callbacks, a TensorBoard
log every 10 steps, progress. Steps of both sides alternate one by one in this process on one thread; the figure is the
median of the pairs' ratios. On a machine with other work the ratio of processor times, printed beside, says more.

    python bench/trainer_overhead.py [--stages 0 1 2 3 4 5] [--steps 24]

Stage 0 is the small denoiser, of which four times as many steps are taken.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from bench.tools.clock import Pairs
from bench.tools.loops import Alternating, BareLoop, small_world
from bench.tools.process import quiet_and_single
from bench.tools.set_up import ROOT, set_up
from datamodules.schema import Batch
from mmig.base.commands import OptionParser
from mmig.callbacks.ema import EMA
from mmig.callbacks.progress import StepProgressBar
from mmig.run.precision import SINGLE
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

GOAL = 0.98
STEP_SECONDS = 0.050
EMA_DECAY = 0.9999
BATCH_SIZE, NUM_BATCHES, CHANNELS, WARM_UP = 2, 8, 32, 3


class Denoiser(TrainingModule):
    """Predicts the target image from the source and a noised target: small, but with every part of a real step."""

    def __init__(self, depth: int) -> None:
        super().__init__(OptimizerConfig(lr=1e-3, warmup_steps=5), {"denoise": 1.0, "l1": 0.1})
        layers = [nn.Conv2d(6, CHANNELS, 3, padding=1)]
        for _ in range(depth):
            layers += [nn.GroupNorm(8, CHANNELS), nn.SiLU(), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)]
        self.net = nn.Sequential(*layers, nn.Conv2d(CHANNELS, 3, 3, padding=1))

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Squared and absolute error a sample."""
        counts = batch["has_target"].to(self.device)
        error = cache(lambda: self._error(batch, draws))
        return {
            "denoise": LossTerm(counts, lambda: error().square().mean(dim=(1, 2, 3))),
            "l1": LossTerm(counts, lambda: error().abs().mean(dim=(1, 2, 3))),
        }

    def _error(self, batch: Batch, draws: Draws) -> Tensor:
        noise = draws.normal("noise", batch["target"].shape[1:]).to(self.device)
        return self.net(torch.cat([batch["source"], batch["target"] + noise], dim=1)) - batch["target"]


def calibrated_depth(batches: list[Batch]) -> int:
    """Number of layers at which a bare step takes about 50 ms on this machine."""
    shallow, deep = 2, 10
    seconds = [fastest(BareLoop(Denoiser(depth), 100), batches) for depth in (shallow, deep)]
    a_layer = max(1e-5, (seconds[1] - seconds[0]) / (deep - shallow))
    return max(1, round(shallow + (STEP_SECONDS - seconds[0]) / a_layer))


def fastest(loop: BareLoop, batches: list[Batch], steps: int = 8) -> float:
    """Seconds of the fastest of some steps."""
    times = []
    for step in range(steps):
        start = time.perf_counter()
        loop.step(batches[step % len(batches)])
        times.append(time.perf_counter() - start)
    return min(times)


def measure_denoiser(batches: list[Batch], steps: int, warm_up: int, depth: int) -> Pairs:
    """Alternate steps of the small denoiser; its trainer draws a progress bar, as on a terminal."""
    loader = Alternating(batches, BareLoop(Denoiser(depth), steps + warm_up, EMA_DECAY), steps, warm_up)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=len(loader),
            max_epochs=-1,
            logger=TensorBoardLogger(folder),
            callbacks=[StepProgressBar(), EMA(EMA_DECAY)],
            log_every_n_steps=10,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(Denoiser(depth), loader)
    return loader.times()


def measure_stage(number: int, batches: list[Batch], steps: int, warm_up: int) -> tuple[Pairs, BareLoop, L.Trainer]:
    """Alternate steps of a stage as configs/demo has it, in float32; also returns what took them."""
    config = ROOT / f"configs/demo/stage{number}.yaml"
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        module, trainer = set_up(config, Path(folder), steps + warm_up, SINGLE)
        bare, _ = set_up(config, Path(folder), steps + warm_up, SINGLE)
        loop = BareLoop(bare, steps + warm_up, average_of(trainer).decay)
        loader = Alternating(batches, loop, steps, warm_up)
        trainer.fit(module, loader)
    return loader.times(), loop, trainer


def average_of(trainer: L.Trainer) -> EMA:
    """The callback that averages the weights."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, EMA))


def line(name: str, times: Pairs) -> str:
    """What is printed of a measurement."""
    return times.line(name, GOAL, "bare", "Lightning")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a line each."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, nargs="+", choices=range(6), default=list(range(6)))
    parser.add_argument("--steps", type=int, default=24, help="measured steps a side and stage")
    options = parser.parse_args(arguments)
    quiet_and_single()
    batches = small_world(BATCH_SIZE, NUM_BATCHES)
    for number in options.stages:
        if number == 0:
            times = measure_denoiser(batches, 4 * options.steps, WARM_UP, calibrated_depth(batches))
        else:
            times, *_ = measure_stage(number, batches, options.steps, WARM_UP)
        name = "trainer_overhead" if number == 0 else f"trainer_overhead/stage{number}"
        print(line(name, times), flush=True)


if __name__ == "__main__":
    main()
