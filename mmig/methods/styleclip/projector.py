"""Projection of pictures into W+ by optimisation (Karras et al. 2020, appendix D): inversion without any encoder."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmig.base.watching import steps
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.methods.styleclip.schedule import ramp

LEARNING_RATE = 0.1
NOISE_WEIGHT = 1e5
CODE_NOISE, NOISY_PART = 0.05, 0.75
"""Deviation of the noise on the codes at first, in deviations of w, and the part of the steps in which it goes."""
PERCEIVED_SIDE = 256
"""Pixels of what LPIPS sees at most."""
Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Distance of two sets of pictures in [-1,1], [B]."""


class Inverted(NamedTuple):
    """Pictures as codes.

    Attributes:
        codes: w+, [B,n,D].
        noise: of each layer, [B or 1,1,R,R].
        errors: mean squared difference of the pictures that they draw, values in [-1,1], [B].
    """

    codes: Tensor
    noise: list[Tensor]
    errors: Tensor


def project(
    generator: StyleGenerator,
    images: Tensor,
    num_steps: int,
    generators: Sequence[torch.Generator],
    perceptual: Perceptual | None = None,
) -> Inverted:
    """Find codes and noise that draw pictures; each sample's result is its own.

    Args:
        generator: frozen.
        images: [B,3,R,R] in [-1,1], of the size of its own.
        num_steps: of Adam.
        generators: one a sample, on the CPU.
        perceptual: LPIPS beside the mean squared difference; None: that alone.
    """
    device, (_, deviation) = images.device, generator.code_statistics()
    codes = generator.mapping.w_avg.expand(len(images), generator.num_codes, -1).clone().requires_grad_()
    noise = [_drawn((1, side, side), generators, device).requires_grad_() for side in generator.noise_sides]
    optimizer = torch.optim.Adam([codes, *noise], betas=(0.9, 0.999))
    for step in steps("projection", range(num_steps)):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * ramp(step, num_steps)
        strength = CODE_NOISE * deviation * max(0.0, 1 - step / num_steps / NOISY_PART) ** 2
        moved = codes + strength * _drawn(codes.shape[1:], generators, device)
        drawn = generator(moved, noise)
        loss = (drawn - images).square().mean((1, 2, 3)) + NOISE_WEIGHT * noise_correlation(noise)
        if perceptual is not None:
            loss = loss + perceptual(_perceived(drawn), _perceived(images))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        with torch.no_grad():
            for one in noise:
                normalised = (one - one.mean((2, 3), keepdim=True)) / one.std((2, 3), correction=0, keepdim=True)
                one.copy_(normalised)
    found, kept = codes.detach(), [one.detach() for one in noise]
    return Inverted(found, kept, squared_error(generator, found, kept, images))


@torch.no_grad()
def squared_error(generator: StyleGenerator, codes: Tensor, noise: Sequence[Tensor], images: Tensor) -> Tensor:
    """Mean squared difference, [B], of pictures and what codes draw."""
    return (generator(codes, noise).clamp(-1, 1) - images).square().mean((1, 2, 3))


def noise_correlation(noise: Sequence[Tensor]) -> Tensor:
    """Sum of squared correlations of neighbours at all scales, [B]: no picture shall hide in the noise.

    Args:
        noise: maps [B,1,R,R].
    """
    total = torch.zeros(len(noise[0]), device=noise[0].device)
    for one in noise:
        while True:
            for dim in (2, 3):
                total = total + (one * one.roll(1, dim)).mean((1, 2, 3)).square()
            if one.shape[-1] <= 8:
                break
            one = F.avg_pool2d(one, 2) * 2  # of deviation 1 again
    return total


def _perceived(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images, PERCEIVED_SIDE) if images.shape[-1] > PERCEIVED_SIDE else images


def _drawn(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    return torch.stack([torch.randn(*shape, generator=one) for one in generators]).to(device)
