"""Does the trainer cost anything? Steps/s of a Lightning training module against a bare loop over the same module.

Both sides take the same batches of the small world (with texts, masks and metadata), draw the same noise, compute the
same losses, clip and step the same fused AdamW and average the weights. The Lightning side alone has what every run has
beside: the other callbacks of train.py except saving, a progress bar and a TensorBoard log every 10 steps. The depth of
the net is chosen so that a step takes about 50 ms here; the sides alternate and the medians of their steps are
compared. On a machine with other work the ratio of processor times, printed beside, says more.

    python bench/trainer_overhead.py [--rounds 5] [--steps 40]
"""

import argparse
import ctypes
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from datamodules.schema import Batch, collate
from datamodules.tinyworld.sample import make_sample
from mmig.callbacks.ema import EMA, ema_decay
from mmig.callbacks.progress import StepProgressBar
from mmig.optim import OptimizerConfig, build_adamw, lr_factor
from mmig.rng import Draws
from mmig.stages.base import TrainingModule

GOAL = 0.98
STEP_SECONDS = 0.050
WARM_UP = 10
EMA_DECAY = 0.9999
BATCH_SIZE, NUM_BATCHES, CHANNELS = 4, 8, 32


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of any size; else page faults cost a process 20 % on one side or the other."""
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # M_TRIM_THRESHOLD and so on in glibc's malloc.h
    for option, size in ((trim_threshold, 2**31 - 1), (top_pad, 2**28), (mmap_threshold, 2**31 - 1)):
        ctypes.CDLL(None).mallopt(option, size)


class Denoiser(TrainingModule):
    """Predicts the target image from the source and a noised target: small, but with every part of a real step."""

    def __init__(self, depth: int) -> None:
        super().__init__(OptimizerConfig(lr=1e-3, warmup_steps=5), {"denoise": 1.0, "l1": 0.1})
        layers = [nn.Conv2d(6, CHANNELS, 3, padding=1)]
        for _ in range(depth):
            layers += [nn.GroupNorm(8, CHANNELS), nn.SiLU(), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)]
        self.net = nn.Sequential(*layers, nn.Conv2d(CHANNELS, 3, 3, padding=1))

    def losses(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Squared and absolute error a sample."""
        noise = draws.normal("noise", batch["target"].shape[1:]).to(self.device)
        error = self.net(torch.cat([batch["source"], batch["target"] + noise], dim=1)) - batch["target"]
        return {"denoise": error.square().mean(dim=(1, 2, 3)), "l1": error.abs().mean(dim=(1, 2, 3))}


class Clocked:
    """Endlessly repeated batches; notes wall-clock and processor time whenever the next one is asked for."""

    def __init__(self, batches: list[Batch], steps: int) -> None:
        self.batches, self.steps = batches, steps
        self.times: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for batch in islice(cycle(self.batches), self.steps):
            self.times.append((time.perf_counter(), time.process_time()))
            yield batch
        self.times.append((time.perf_counter(), time.process_time()))

    def step_times(self) -> list[tuple[float, float]]:
        """Wall-clock and processor seconds of each step after the warm-up."""
        pairs = list(zip(self.times, self.times[1:], strict=False))[WARM_UP:]
        return [(later[0] - earlier[0], later[1] - earlier[1]) for earlier, later in pairs]


def run_bare(module: Denoiser, loader: Clocked) -> list[tuple[float, float]]:
    """The loop that one would write by hand."""
    optimizer = build_adamw(module.named_parameters(), module.optimizer_config)
    weights = [parameter.detach() for parameter in module.parameters()]
    averages = [weight.clone() for weight in weights]
    for step, batch in enumerate(loader):
        for group in optimizer.param_groups:
            group["lr"] = module.optimizer_config.lr * lr_factor(module.optimizer_config, step, loader.steps)
        optimizer.zero_grad()
        values = module.losses(batch, Draws(module.seed, batch["position"]))
        torch.stack([weight * values[name].mean() for name, weight in module.loss_weights.items()]).sum().backward()
        nn.utils.clip_grad_norm_(module.parameters(), module.optimizer_config.clip_norm, foreach=True)
        optimizer.step()
        torch._foreach_lerp_(averages, weights, 1 - ema_decay(EMA_DECAY, step + 1))
    return loader.step_times()


def run_lightning(module: Denoiser, loader: Clocked, folder: str) -> list[tuple[float, float]]:
    """The same through Lightning's trainer, set up as train.py does."""
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=loader.steps,
        max_epochs=-1,
        logger=TensorBoardLogger(folder),
        callbacks=[StepProgressBar(), EMA(EMA_DECAY)],
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, loader)
    return loader.step_times()


def calibrated_depth(batches: list[Batch]) -> int:
    """Number of layers at which a bare step takes about 50 ms on this machine."""
    shallow, deep = 2, 10
    seconds = [min(run_bare(Denoiser(depth), Clocked(batches, WARM_UP + 5)))[1] for depth in (shallow, deep)]
    a_layer = max(1e-5, (seconds[1] - seconds[0]) / (deep - shallow))
    return max(1, round(shallow + (STEP_SECONDS - seconds[0]) / a_layer))


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often the two sides alternate")
    parser.add_argument("--steps", type=int, default=40, help="measured steps a round and side")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")

    samples = [make_sample(0, "train", index) for index in range(BATCH_SIZE * NUM_BATCHES)]
    starts = range(0, len(samples), BATCH_SIZE)
    batches = [
        collate(samples[start : start + BATCH_SIZE], positions=range(start, start + BATCH_SIZE)) for start in starts
    ]
    depth = calibrated_depth(batches)
    bare: list[tuple[float, float]] = []
    lightning: list[tuple[float, float]] = []
    for _ in range(options.rounds):
        bare += run_bare(Denoiser(depth), Clocked(batches, options.steps + WARM_UP))
        with tempfile.TemporaryDirectory() as folder:
            lightning += run_lightning(Denoiser(depth), Clocked(batches, options.steps + WARM_UP), folder)
    (bare_wall, bare_cpu), (lightning_wall, lightning_cpu) = (
        [1e3 * median(values) for values in zip(*steps, strict=True)] for steps in (bare, lightning)
    )
    print(
        f"trainer_overhead ratio {bare_wall / lightning_wall:.3f} (goal >= {GOAL}; bare {bare_wall:.1f} ms, Lightning "
        f"{lightning_wall:.1f} ms a step; by processor time {bare_cpu / lightning_cpu:.3f}, {bare_cpu:.1f} and "
        f"{lightning_cpu:.1f} ms; {len(bare)} steps each, load {os.getloadavg()[0]:.1f})"
    )


if __name__ == "__main__":
    main()
