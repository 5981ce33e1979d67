"""LPIPS (Zhang et al. 2018) as a loss: the network of `mmig.metrics.lpips` with gradients, from a folder of its own."""

import torch
from torch import Tensor, nn

from mmig.backbones.files import read_json, weight_files
from mmig.backbones.hub import locate
from mmig.backbones.loading import remove_dropout
from mmig.backbones.named import Source
from mmig.backbones.parts import Part
from mmig.metrics.lpips import BACKBONES, load_lpips

PERCEPTUAL = Part("perceptual", "perceptual", kind_key="architecture", kinds=tuple(BACKBONES.values()))
"""The convolutions that LPIPS looks at, as `timm/vgg16.tv_in1k` lies on the hub: torchvision's names and weights."""


class PerceptualDistance(nn.Module):
    """LPIPS of pairs of images in single precision; its weights stay as they are.

    Args:
        network: torchmetrics', with all its weights.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        remove_dropout(self)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Equation 1 of the paper, at least 0: [B] of images [B,3,H,W] in about [-1,1]."""
        with torch.autocast(first.device.type, enabled=False):
            return self.network(first.float(), second.float()).flatten()


def load_perceptual(path: Source) -> PerceptualDistance:
    """LPIPS with torchmetrics' linear weights over the backbone of a folder or hub id.

    Raises:
        BackboneError: nothing there, or another model.
    """
    folder = locate(path, PERCEPTUAL)
    architecture = read_json(folder / "config.json")["architecture"]
    name = next(name for name, model in BACKBONES.items() if model == architecture)
    return PerceptualDistance(load_lpips(name, weight_files(folder)[0]).network)
