"""What is trained: a painter of one colour, and a critic that tells its pictures from real ones."""

import torch
from torch import Tensor, nn

SIDE = 16
NOISE = 4


class Painter(nn.Module):
    """Tones and noise -> a picture.

    Args:
        num_bands: of the ear.
        width: of the hidden layer.
    """

    def __init__(self, num_bands: int, width: int = 16) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_bands + NOISE, width)
        self.colour = nn.Linear(width, 3)

    def forward(self, tones: Tensor, noise: Tensor) -> Tensor:
        """Pictures [B,3,SIDE,SIDE] in [-1,1] of tones [B,num_bands] and noise [B,NOISE]."""
        hidden = torch.tanh(self.hidden(torch.cat([tones, 0.1 * noise], dim=1)))
        return torch.tanh(self.colour(hidden))[:, :, None, None].expand(-1, -1, SIDE, SIDE)


class Critic(nn.Module):
    """Picture -> how real it looks, [B]."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Of pictures [B,3,H,W]."""
        return self.net(images.mean(dim=(2, 3))).squeeze(1)
