"""Maps that the tests of the attention losses and of the concept maps share."""

import math

import torch
from torch import Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def blob() -> Tensor:
    """A Gaussian of sigma 2 on 16x16, centred at (5, 8)."""
    square = [[(y - 5) ** 2 + (x - 8) ** 2 for x in range(16)] for y in range(16)]
    return torch.tensor([[math.exp(-value / 8) for value in row] for row in square])
