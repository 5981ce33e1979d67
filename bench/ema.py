"""What the average of the weights costs: one EMA update against one training step of the tiny editing UNet.

The step is forward, backward, clipping and fused AdamW on a batch of 16 latents (4x16x16); the update runs over every
parameter. Medians of the processor time of both, in turn in one process.

    python bench/ema.py
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from bench.tools.clock import in_turn
from mmig.backbones.diffusion import load_unet
from mmig.callbacks.ema import EMA
from mmig.training.optim import OptimizerConfig, build_optimizer

GOAL = 0.05
UNET = Path(__file__).resolve().parent.parent / "assets/tiny/instruct-pix2pix"
BATCH_SIZE, ROUNDS = 16, 15


def main() -> None:
    """Measure and print one line."""
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

    unet.not_averaged = ()  # as a training module says
    ema = EMA()
    ema.on_train_start(None, unet)
    base, update = in_turn(step, ema.update, ROUNDS).seconds(clock=1)
    print(f"ema_share ratio {update / base:.4f} (goal <= {GOAL}; step {base * 1e3:.0f} ms)")


if __name__ == "__main__":
    main()
