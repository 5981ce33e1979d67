"""Per-sample pixel metrics: L1, L2, PSNR, SSIM. Pure functions of images [B,3,H,W] in [0,1], one value a sample."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmig.metrics.images import as_unit

_WINDOW, _SIGMA = 11, 1.5


def l1(images: Tensor, references: Tensor) -> Tensor:
    """Mean absolute difference over channels and pixels, [B] in [0,1] (MagicBrush, MGIE and EMU Edit tables)."""
    images, references = _pair(images, references)
    return (images - references).abs().flatten(1).mean(1)


def l2(images: Tensor, references: Tensor) -> Tensor:
    """Mean squared difference over channels and pixels, [B] in [0,1] (MagicBrush table)."""
    images, references = _pair(images, references)
    return (images - references).square().flatten(1).mean(1)


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio -10 log10(l2) in decibels of images with peak 1, [B], at least 0.

    Infinite for equal images; the mean of such values over a set says nothing, see `measures.PeakSignalToNoise`.
    """
    return -10 * l2(images, references).log10()


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity of Wang et al. 2004, [B] in [-1,1]: Gaussian 11x11, sigma 1.5, k1 0.01, k2 0.03.

    The window stays inside the image ("valid"), channels are averaged, and the range of the data is 1, never what the
    batch happens to span: the value of a sample would depend on its batch.

    Raises:
        ValueError: for images smaller than 11 pixels.
    """
    images, references = _pair(images, references)
    if min(images.shape[-2:]) < _WINDOW:
        raise ValueError(
            f"ssim: expected images of at least {_WINDOW}x{_WINDOW} pixels, found {tuple(images.shape[-2:])}"
        )
    x, y = images.double(), references.double()
    blurred = _gaussian_window(torch.cat([x, y, x * x, y * y, x * y], dim=1))
    mean_x, mean_y, square_x, square_y, product = blurred.chunk(5, dim=1)
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (numerator / denominator).flatten(1).mean(1).float()


def _gaussian_window(planes: Tensor) -> Tensor:
    offsets = torch.arange(_WINDOW, dtype=planes.dtype, device=planes.device) - _WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    weights = weights / weights.sum()
    channels = planes.shape[1]
    rows = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(planes, rows, groups=channels), columns, groups=channels)


def _pair(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    if images.shape != references.shape:
        found = f"{tuple(images.shape)} and {tuple(references.shape)}"
        raise ValueError(f"images and references must have one shape, found {found}")
    return as_unit(images), as_unit(references, "references")
