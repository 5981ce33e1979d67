"""The Inception of the FID (Heusel et al. 2017): torchvision's v3 with the differences of TensorFlow's graph of 2015.

Its weights are converted from that graph (torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`, the same as
pytorch-fid's) and lie in a local file. Average pools do not count their padding, the last block pools by the maximum,
and images are enlarged by TensorFlow's old bilinear rule, which aligns corners of pixels at one side only.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception

from mmig.backbones.torchvision_weights import load_state
from mmig.backbones.weights import read_weights

IMAGE_SIZE = 299
_NUM_CLASSES = 1008


class _PoolsItsOwnWay:
    """The last branch of a block of torchvision anew, with another pool before its convolution."""

    def _forward(self, images: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(images)
        return [*others, self.branch_pool(self._pool(images))]

    @staticmethod
    def _pool(images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


class _BlockA(_PoolsItsOwnWay, inception.InceptionA):
    pass


class _BlockC(_PoolsItsOwnWay, inception.InceptionC):
    pass


class _BlockE(_PoolsItsOwnWay, inception.InceptionE):
    pass


class _LastBlock(_BlockE):
    @staticmethod
    def _pool(images: Tensor) -> Tensor:
        return F.max_pool2d(images, 3, stride=1, padding=1)


def load_fid_inception(file: Path) -> nn.Module:
    """Images [B,3,299,299] from `prepare_for_fid` -> features float32 [B,2048] of the last pool; frozen, eval.

    Raises:
        BackboneError: an unreadable file, or one that holds other weights.
    """
    network = build_fid_inception()
    load_state(network, read_weights(file), file)
    network.fc = nn.Identity()
    return network.eval().requires_grad_(False)


def build_fid_inception() -> inception.Inception3:
    """The network before its weights, with its classes."""
    blocks = [
        inception.BasicConv2d,
        _BlockA,
        inception.InceptionB,
        _BlockC,
        inception.InceptionD,
        _BlockE,
        inception.InceptionAux,
    ]
    network = inception.Inception3(_NUM_CLASSES, aux_logits=False, inception_blocks=blocks, init_weights=False)
    network.Mixed_7c = _LastBlock(2048)
    return network


def prepare_for_fid(images: Tensor) -> Tensor:
    """Images float [B,3,H,W] in [0,1] -> rounded to bytes, resized, in [-1,1): float32 [B,3,299,299]."""
    pixels = (images.float() * 255).round()
    for dimension in (3, 2):
        pixels = _resized(pixels, dimension)
    return (pixels - 128) / 128


def _resized(pixels: Tensor, dimension: int) -> Tensor:
    """Linear interpolation along one dimension at places 0, s, 2s ... with s = old size / new size."""
    length = pixels.shape[dimension]
    places = torch.arange(IMAGE_SIZE, dtype=torch.float32, device=pixels.device) * (length / IMAGE_SIZE)
    below = places.long().clamp_max(length - 1)
    first, second = (pixels.index_select(dimension, at) for at in (below, (below + 1).clamp_max(length - 1)))
    share = (places - below).view([-1 if number == dimension else 1 for number in range(4)])
    return first + (second - first) * share
