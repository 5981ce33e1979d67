"""L_ID of eq 6: is it still the same face? Outside of faces there is none."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmig.backbones.torchvision_weights import load_state
from mmig.backbones.weights import read_weights
from mmig.base.paths import resolved
from mmig.methods.styleclip.ir_se import FaceNetwork

FRAME = (slice(35, 223), slice(32, 220))
"""Rows and columns of an aligned face of 256 pixels that show the face itself."""


class IdentityLoss(nn.Module):
    """1 - <R(edited), R(source)>, frozen.

    Args:
        network: R.
    """

    def __init__(self, network: FaceNetwork) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "IdentityLoss":
        """Stay in eval mode: batch norms have the statistics that they were trained to."""
        return super().train(False)

    def encode(self, images: Tensor) -> Tensor:
        """Unit vectors [B,512] of aligned faces [B,3,H,W] in [-1,1], larger or smaller than 256 pixels."""
        frame = F.adaptive_avg_pool2d(images, 256)[:, :, FRAME[0], FRAME[1]]
        return self.network(F.adaptive_avg_pool2d(frame, 112))

    def forward(self, edited: Tensor, source: Tensor) -> Tensor:
        """L_ID in [0,2], [B], of pictures [B,3,H,W] each; the source carries no gradient."""
        with torch.no_grad():
            expected = self.encode(source)
        return 1 - (self.encode(edited) * expected).sum(1)


def load_identity(file: str | Path | None) -> IdentityLoss | None:
    """The loss around the weights of a file; None where no file is given.

    Args:
        file: .safetensors, or InsightFace's `model_ir_se50.pth`; no code in it is run.

    Raises:
        BackboneError: a missing or unreadable file, or one of another network.
    """
    if file is None:
        return None
    place, network = resolved(file), FaceNetwork()
    load_state(network, read_weights(place), place)
    return IdentityLoss(network)
