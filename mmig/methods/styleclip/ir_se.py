"""IR-SE50, the face network of ArcFace (Deng et al. 2019) in the layout of InsightFace's PyTorch port.

Its body is that of the encoder for editing too (`e4e`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_UNITS = (3, 4, 14, 3)
WIDTHS = (64, 64, 128, 256, 512)


class SqueezeExcite(nn.Module):
    """Channels weighed by what all of the picture says.

    Args:
        width: channels. reduction: of the layer between.
    """

    def __init__(self, width: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(width // reduction, width, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """[B,C,H,W] of [B,C,H,W]."""
        pooled = features.mean((2, 3), keepdim=True)
        return features * torch.sigmoid(self.fc2(F.relu(self.fc1(pooled))))


class Unit(nn.Module):
    """A residual unit.

    Args:
        num_in, width: channels. stride: of its second convolution.
    """

    def __init__(self, num_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        if num_in != width:
            shortcut = nn.Conv2d(num_in, width, 1, stride, bias=False)
            self.shortcut_layer = nn.Sequential(shortcut, nn.BatchNorm2d(width))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(num_in),
            nn.Conv2d(num_in, width, 3, 1, 1, bias=False),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            SqueezeExcite(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """[B,width,H/stride,W/stride] of [B,num_in,H,W]."""
        kept = hasattr(self, "shortcut_layer")
        shortcut = self.shortcut_layer(features) if kept else features[:, :, :: self.stride, :: self.stride]
        return self.res_layer(features) + shortcut


def make_stem() -> nn.Sequential:
    """RGB -> 64 channels."""
    return nn.Sequential(nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.PReLU(WIDTHS[0]))


def make_body() -> nn.Sequential:
    """The 24 units, to a sixteenth of the side."""
    units = []
    for before, width, number in zip(WIDTHS, WIDTHS[1:], NUM_UNITS, strict=False):
        units += [Unit(before if index == 0 else width, width, 2 if index == 0 else 1) for index in range(number)]
    return nn.Sequential(*units)


class FaceNetwork(nn.Module):
    """R of eq 6: faces -> who they are."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer, self.body = make_stem(), make_body()
        flat = nn.Linear(WIDTHS[-1] * 7 * 7, 512)
        self.output_layer = nn.Sequential(nn.BatchNorm2d(512), nn.Dropout(0.0), nn.Flatten(), flat, nn.BatchNorm1d(512))

    def forward(self, faces: Tensor) -> Tensor:
        """Unit vectors [B,512] of faces [B,3,112,112] in [-1,1]."""
        return F.normalize(self.output_layer(self.body(self.input_layer(faces))), dim=1)
