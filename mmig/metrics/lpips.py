"""LPIPS (Zhang et al. 2018): the network of torchmetrics with its linear weights, the backbone's from a local file."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS, _normalize_tensor

from mmig.backbones.fingerprint import file_fingerprint
from mmig.backbones.torchvision_weights import load_state, weights_file
from mmig.backbones.weights import read_weights
from mmig.metrics.images import check_range

BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""Name of LPIPS -> model of torchvision; each gives other numbers."""
CLASSIFIERS = r"(classifier|pre_logits|head)\."
"""What else a file of such a backbone holds, of torchvision or of timm."""
MIN_SIZE = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Smallest sides that the backbones can pool down, pixels."""


class LpipsError(ValueError):
    """An unknown network, or images that it cannot take."""


class Lpips:
    """LPIPS in fp32 without gradients, in two halves, so that each image goes through the backbone once.

    Args:
        name: "alex" (the authors' own choice for figures), "vgg" or "squeeze".
        network: torchmetrics' network with all its weights.
        identity: what names the weights in metrics.json.
        device: where the network runs.
    """

    def __init__(
        self, name: str, network: _LPIPS, identity: dict[str, Any] | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.name = name
        self.network = network.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self.device = torch.device(device)
        self._identity = dict(identity or {})

    def describe(self) -> dict[str, Any]:
        """Weights and preprocessing identifiers for metrics.json; images are taken in their own size."""
        return {"name": self.name, **self._identity, "input_range": "signed", "resize": None, "precision": "fp32"}

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> list[Tensor]:
        """Images float [B,3,H,W] in [0,1] -> activations of every layer [B,C,h,w], of unit length over channels.

        A bank keeps those of input and target for all seeds: 128 MB an image of 512 pixels of vgg, 36 of squeeze, 11 of
        alex.

        Raises:
            ImageRangeError: for images outside [0,1].
            LpipsError: for images that are too small for the backbone.
        """
        check_range(images, 0.0, 1.0)
        height, width = images.shape[-2:]
        if min(height, width) < MIN_SIZE[self.name]:
            least = MIN_SIZE[self.name]
            raise LpipsError(
                f"lpips {self.name}: expected images of at least {least}x{least} pixels, found {height}x{width}"
            )
        signed = images.to(self.device).float() * 2 - 1
        with torch.autocast(self.device.type, enabled=False):
            layers = self.network.net(self.network.scaling_layer(signed))
            return [_normalize_tensor(layer) for layer in layers]

    @torch.no_grad()
    def distance(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Equation 1 of the paper of two sets of activations: [B], at least 0."""
        with torch.autocast(self.device.type, enabled=False):
            layers = zip(self.network.lins, first, second, strict=True)
            return sum(linear((one - other).square()).mean((1, 2, 3)) for linear, one, other in layers)


def load_lpips(name: str, weights: str | Path | None = None, device: torch.device | str = "cpu") -> Lpips:
    """LPIPS with the weights that torchmetrics ships and a backbone of torchvision.

    Args:
        name: of `BACKBONES`.
        weights: file of the backbone's weights as torchvision publishes them (`alexnet-owt-7be5be79.pth`); None for
            torchvision's default ones in torch's cache.
        device: where it runs.

    Raises:
        LpipsError: for an unknown name.
        BackboneError: the file is missing, unreadable, or of another model.
    """
    if name not in BACKBONES:
        raise LpipsError(f"lpips: {name!r} is unknown; expected one of {', '.join(BACKBONES)}")
    file = weights_file(BACKBONES[name], weights)
    network = _LPIPS(net=name, pnet_rand=True)  # random: torchvision would download others
    published = {_published(own): own for own in network.net.state_dict()}
    state = {published.get(stored, stored): value for stored, value in read_weights(file).items()}
    load_state(network.net, state, file, unused=CLASSIFIERS)
    identity = {
        "backbone": BACKBONES[name],
        "weights": str(weights or file.name),
        "fingerprint": file_fingerprint(file),
    }
    return Lpips(name, network, identity, device)


def _published(name: str) -> str:
    """Torchvision's name of a weight of one of the slices that torchmetrics has cut the backbone into."""
    return re.sub(r"^(slice\d+|slices\.\d+)\.", "features.", name)
