"""A small random generator, the tiny CLIP, and batches of what the generator draws."""

from functools import cache
from pathlib import Path

import torch

from mmig.methods.styleclip.clip_loss import ClipLoss
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.methods.styleclip.loading import load_loss_clip
from tests.mmig.methods.styleclip.contract import SIZES

CLIP = "assets/tiny/clip"


def small_generator(seed: int = 0, margin: int = 0) -> StyleGenerator:
    """Of 16 pixels and a margin, frozen, with the mean of its codes; its pictures lie about in [-1,1]."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = StyleGenerator(**SIZES, margin=margin).requires_grad_(False).eval()
    generator.measure_average()
    for block in generator.blocks:
        block.torgb.weight.mul_(0.15)
    return generator


@cache
def tiny_clip() -> ClipLoss:
    return ClipLoss(load_loss_clip(CLIP), normalise=True)


def drawn_batch(generator: StyleGenerator, count: int = 2, **texts: list[str]) -> dict[str, object]:
    """Sources that the generator has drawn itself, and texts."""
    z = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(1))
    batch = {"key": [f"k{row}" for row in range(count)], "source": generator(generator.codes(z, 0.5)).clamp(-1, 1)}
    batch |= texts
    return batch | {f"has_{name}": torch.ones(count, dtype=torch.bool) for name in ("source", *texts)}


def save_generator(folder: Path, seed: int = 0) -> Path:
    small_generator(seed).save_pretrained(folder / "generator")
    return folder
