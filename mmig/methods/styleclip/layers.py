"""Layers of StyleGAN2 (Karras et al. 2020): equalised weights, low-pass filters, modulated convolution."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = math.sqrt(2)
"""Of a leaky ReLU, so that variances stay."""
SLOPE = 0.2
_TAPS = (1.0, 3.0, 3.0, 1.0)


def activated(values: Tensor) -> Tensor:
    """Leaky ReLU times sqrt 2."""
    return GAIN * F.leaky_relu(values, SLOPE)


def pixel_norm(values: Tensor, dim: int = 1) -> Tensor:
    """Values whose mean square along `dim` is 1."""
    return values * (values.square().mean(dim, keepdim=True) + 1e-8).rsqrt()


def low_pass(values: Tensor, gain: float = 1.0) -> Tensor:
    """The filter [1,3,3,1] in both directions, its sum brought to `gain`, [C,1,4,4] for a convolution by channels."""
    taps = values.new_tensor(_TAPS)
    kernel = torch.outer(taps, taps) / taps.sum().square() * gain
    return kernel.expand(values.shape[1], 1, 4, 4)


def blurred(values: Tensor, before: int, after: int, gain: float = 1.0) -> Tensor:
    """Maps [B,C,H,W] behind the low-pass filter, after zeros at the left and top (`before`) and right and bottom."""
    padded = F.pad(values, (before, after, before, after))
    return F.conv2d(padded, low_pass(values, gain), groups=values.shape[1])


def upsampled(values: Tensor) -> Tensor:
    """Maps of twice the side: zeros between the values, then the low-pass filter."""
    return F.conv_transpose2d(values, low_pass(values, 4.0), stride=2, padding=1, groups=values.shape[1])


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """Factors [B,O] that bring each modulated filter to length 1.

    Args:
        weight: [O,I,k,k], with its equalised scale.
        style: s, [B,I].
    """
    return (style.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()


def modulated_conv(
    features: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True, upsample: bool = False
) -> Tensor:
    """Convolution whose filters are scaled for each sample (Karras et al. 2020, eq 1 to 3), [B,O,H,W] or [B,O,2H,2W].

    Scaling input and output maps is the same as scaling the filters, and needs no filters of each sample's own.

    Args:
        features: [B,I,H,W].
        weight: [O,I,k,k] as it is stored; divided here by the square root of a filter's size.
        style: s, [B,I].
        demodulate: bring the filters to length 1.
        upsample: by a transposed convolution and the low-pass filter.
    """
    weight = weight / math.sqrt(weight[0].numel())
    scaled = features * style[..., None, None]
    if upsample:
        output = blurred(F.conv_transpose2d(scaled, weight.transpose(0, 1), stride=2), 1, 1, 4.0)
    else:
        output = F.conv2d(scaled, weight, padding=weight.shape[-1] // 2)
    return output * demodulation(weight, style)[..., None, None] if demodulate else output


class EqualLinear(nn.Module):
    """A linear layer whose weights are stored with variance 1 and scaled when they are used.

    Args:
        num_in, num_out: widths.
        lr_scale: of weights and bias, as of a smaller learning rate.
        bias: at first.
    """

    def __init__(self, num_in: int, num_out: int, lr_scale: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_out, num_in) / lr_scale)
        self.bias = nn.Parameter(torch.full((num_out,), bias))
        self.lr_scale = lr_scale

    def forward(self, values: Tensor) -> Tensor:
        """[...,num_out] of [...,num_in]."""
        scale = self.lr_scale / math.sqrt(self.weight.shape[1])
        return F.linear(values, self.weight * scale, self.bias * self.lr_scale)


class EqualConv(nn.Module):
    """A convolution with such weights; halves the sides, behind the low-pass filter, where `down` is set.

    Args:
        num_in, num_out: channels.
        kernel: side of the filters.
        down: halve.
        bias: with a bias, followed by the activation; without either.
    """

    def __init__(self, num_in: int, num_out: int, kernel: int, down: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_out, num_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(num_out)) if bias else None
        self.down = down

    def forward(self, features: Tensor) -> Tensor:
        """[B,num_out,H,W] of [B,num_in,H,W], or half the sides."""
        weight = self.weight / math.sqrt(self.weight[0].numel())
        kernel = weight.shape[-1]
        if self.down:
            before, after = (kernel + 2) // 2, (kernel + 1) // 2
            output = F.conv2d(blurred(features, before, after), weight, stride=2)
        else:
            output = F.conv2d(features, weight, padding=kernel // 2)
        return output if self.bias is None else activated(output + self.bias[:, None, None])
