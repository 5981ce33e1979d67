"""What the average of the weights costs: one EMA update against one training step of the tiny editing UNet.

The step is forward, backward, clipping and fused AdamW on a batch of 16 latents (4x16x16); the update runs over every
parameter. Medians of alternating measurements in one process.

    python bench/ema.py [--rounds 15]
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from mmig.backbones.diffusion import load_unet
from mmig.callbacks.ema import EMA
from mmig.training.optim import OptimizerConfig, build_optimizer

GOAL = 0.05
UNET = Path(__file__).resolve().parent.parent / "assets/tiny/instruct-pix2pix"
BATCH_SIZE = 16


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    unet = load_unet(UNET, frozen=False).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(unet.named_parameters(), OptimizerConfig())
    width, channels = unet.config.cross_attention_dim, unet.config.in_channels
    noisy, text = torch.randn(BATCH_SIZE, channels, 16, 16), torch.randn(BATCH_SIZE, 77, width)

    def step() -> None:
        optimizer.zero_grad()
        unet(noisy, torch.full((BATCH_SIZE,), 500), text).sample.square().mean().backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0, foreach=True)
        optimizer.step()

    ema = EMA()
    ema.on_train_start(None, unet)

    for work in (step, ema.update):
        work()
    times = [(seconds(step), seconds(ema.update)) for _ in range(rounds)]
    steps, updates = median(t[0] for t in times), median(t[1] for t in times)
    print(f"ema_share ratio {updates / steps:.4f} (goal <= {GOAL}; step {steps * 1e3:.0f} ms)")


def seconds(work: Callable[[], None]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
