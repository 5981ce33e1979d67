"""The discriminator of StyleGAN2 (Karras et al. 2020): residual blocks down to 4 pixels, deviation, one score."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from mmig.methods.styleclip.layers import EqualConv, EqualLinear, activated


class ResidualBlock(nn.Module):
    """Two convolutions and a skip to half the side.

    Args:
        num_in, num_out: channels.
    """

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.conv0 = EqualConv(num_in, num_in, 3)
        self.conv1 = EqualConv(num_in, num_out, 3, down=True)
        self.skip = EqualConv(num_in, num_out, 1, down=True, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """[B,num_out,H/2,W/2] of [B,num_in,H,W]."""
        return (self.conv1(self.conv0(features)) + self.skip(features)) / math.sqrt(2)


class Discriminator(nn.Module):
    """How real a picture looks.

    Args:
        resolution: side of the pictures.
        channel_base, channel_max: as of the generator.
        group: most samples whose deviation is told to each of them; a divisor of the batch is taken.
    """

    def __init__(self, resolution: int, channel_base: int = 32768, channel_max: int = 512, group: int = 4) -> None:
        super().__init__()
        sides = [2**power for power in range(int(math.log2(resolution)), 1, -1)]
        widths = [min(channel_base // side, channel_max) for side in sides]
        self.group = group
        self.from_rgb = EqualConv(3, widths[0], 1)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b) for a, b in pairwise(widths)))
        self.conv = EqualConv(widths[-1] + 1, widths[-1], 3)
        self.hidden = EqualLinear(widths[-1] * 16, widths[-1])
        self.score = EqualLinear(widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B] of pictures [B,3,R,R] in [-1,1]; above 0 for real."""
        features = self.blocks(self.from_rgb(images))
        features = self.conv(torch.cat([features, deviation(features, self.group)], dim=1))
        return self.score(activated(self.hidden(features.flatten(1)))).squeeze(1)


def deviation(features: Tensor, group: int) -> Tensor:
    """Mean deviation of the features over groups of samples, one map for each sample: [B,1,H,W].

    Args:
        features: [B,C,H,W].
        group: most samples of a group; the largest divisor of B up to it is taken.
    """
    batch, _, height, width = features.shape
    size = max(number for number in range(1, min(group, batch) + 1) if batch % number == 0)
    grouped = features.unflatten(0, (-1, size))  # neighbours, so that ranks and micro-batches do not change the groups
    spread = (grouped.var(1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    return spread.repeat_interleave(size).view(batch, 1, 1, 1).expand(-1, -1, height, width)
