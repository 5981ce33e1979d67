"""What tells real images from reconstructed ones, patch by patch (Isola et al. 2017), and its hinge loss."""

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from mmig.base.values import check_values

MAX_WIDENING = 8
"""No layer is wider than so many times the first."""


@dataclass(frozen=True)
class DiscriminatorSize:
    """Sizes of a `PatchDiscriminator`; the defaults are those of Rombach et al. (2022).

    Attributes:
        width: channels of the first layer; each of the next has twice as many, up to 8 times.
        layers: that halve the sides; a patch is 16, 34 or 70 pixels wide with 1, 2 or 3.
        norm: "batch" as published, over the images of a forward, so that ranks and micro-batches count (on several GPUs
            give --trainer.sync_batchnorm true); "instance" looks at each image alone.
    """

    width: int = 64
    layers: int = 3
    norm: Literal["batch", "instance"] = "batch"

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that cannot be."""
        check_values(self, "discriminator", width=(1, math.inf), layers=(1, math.inf))


class PatchDiscriminator(nn.Sequential):
    """Images [B,3,H,W] in about [-1,1] -> an answer for each patch, [B,1,h,w]: large for real, small for made.

    Args:
        size: of its layers.
    """

    def __init__(self, size: DiscriminatorSize) -> None:
        widths = [size.width * min(2**number, MAX_WIDENING) for number in range(size.layers + 1)]
        layers: list[nn.Module] = [_convolution(3, widths[0], 2), nn.LeakyReLU(0.2)]
        for number in range(1, size.layers + 1):
            stride = 2 if number < size.layers else 1
            # a bias would be lost in what follows
            layers.append(_convolution(widths[number - 1], widths[number], stride, bias=False))
            layers += [_norm(size.norm, widths[number]), nn.LeakyReLU(0.2)]
        super().__init__(*layers, _convolution(widths[-1], 1, 1))


def generator_loss(made: Tensor) -> Tensor:
    """- mean of the answers to made images [B,1,h,w], over the patches of each, [B]."""
    return -made.mean(dim=(1, 2, 3))


def hinge_loss(real: Tensor, made: Tensor) -> Tensor:
    """(max(0, 1 - real) + max(0, 1 + made)) / 2, mean over the patches of each image, [B] (Lim & Ye 2017)."""
    return 0.5 * (F.relu(1 - real) + F.relu(1 + made)).mean(dim=(1, 2, 3))


def _convolution(inputs: int, outputs: int, stride: int, bias: bool = True) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel_size=4, stride=stride, padding=1, bias=bias)
    nn.init.normal_(layer.weight, 0.0, 0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _norm(kind: str, channels: int) -> nn.Module:
    layer = nn.BatchNorm2d(channels) if kind == "batch" else nn.InstanceNorm2d(channels, affine=True)
    nn.init.normal_(layer.weight, 1.0, 0.02)
    return layer
