"""Adaptive discriminator augmentation (Karras et al. 2020, "Training GANs with limited data"): D sees pictures moved.

Each transform happens with probability p to each sample. Up to p of about 0.8 nothing of it leaks into the pictures.
The blit transforms (mirror, quarter turns, whole pixels), the geometric and the colour ones are here, as one matrix of
places and one of colours; the filters and corruptions of the paper are not.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_DRAWS = 28
"""Standard normal numbers that decide a sample's transforms."""
_SYM6 = (
    0.0154041093, 0.0034907121, -0.1179901111, -0.0483117426, 0.4910559419, 0.7876411410,
    0.3379294217, -0.0726375228, -0.0210602925, 0.0447249018, 0.0017677119, -0.0078007083,
)  # fmt: skip
"""The wavelet by which pictures are enlarged and reduced (Daubechies 1992), of length 1."""


class _Numbers:
    """Hands out the columns of a table of normal numbers, as uniform ones too."""

    def __init__(self, table: Tensor) -> None:
        self.columns = iter(table.unbind(1))

    def normal(self) -> Tensor:
        return next(self.columns)

    def uniform(self) -> Tensor:
        return 0.5 * (1 + torch.erf(next(self.columns) / math.sqrt(2)))

    def chance(self, probability: float) -> Tensor:
        return self.uniform() < probability


def augment(images: Tensor, draws: Tensor, probability: float) -> Tensor:
    """Transformed pictures; the gradient runs through.

    Args:
        images: [B,3,R,R] in [-1,1].
        draws: standard normal, [B,NUM_DRAWS].
        probability: p in [0, 1], of each transform; 0 gives the pictures themselves.
    """
    if probability == 0:
        return images
    numbers = _Numbers(draws.to(images))
    places, colours = _places(numbers, probability, images.shape[-1]), _colours(numbers, probability)
    return recoloured(warped(images, places), colours)


def adapted(probability: float, sign: float, target: float, num_images: float, span: float) -> float:
    """The probability p after some pictures: up where the discriminator overfits, else down (section 3).

    Args:
        probability: p before.
        sign: r_t, mean sign of the scores of real pictures; near 1 they are known by heart.
        target: r_t that is aimed at, 0.6.
        num_images: since the last change.
        span: pictures in which p may go from 0 to 1.
    """
    step = (sign > target) - (sign < target)
    return min(1.0, max(0.0, probability + step * num_images / span))


def warped(images: Tensor, places: Tensor) -> Tensor:
    """Pictures looked up at other places; edges are mirrored.

    Where nothing moves they stay as they are: the wavelet reduces what it has enlarged to the same.

    Args:
        images: [B,3,R,R].
        places: [B,3,3], homogeneous coordinates of the output -> of the input, the picture being [-1,1] x [-1,1].
    """
    side = images.shape[-1]
    taps = images.new_tensor(_SYM6)
    taps = taps / taps.sum()
    margin = min(side - 1, side // 2 + len(_SYM6))  # what the transforms can reach, nearly always
    wide = F.pad(images, [margin] * 4, mode="reflect")
    fine = _resampled(wide, taps, up=True)
    # the wavelet is not symmetric: by so much of the fine grid's pixels everything stands further to the left in it
    lag = (len(_SYM6) - 1) / 2 - sum(place * tap for place, tap in enumerate(_SYM6)) / sum(_SYM6)
    # the picture's square in the enlarged and padded one, and two outputs a pixel
    scale = side / (side + 2 * margin)
    matrix = places[:, :2] * scale
    ring = len(_SYM6)  # outputs beyond the edge that the reducing filter reads, on the fine grid
    count = 2 * side + 2 * ring
    steps = (torch.arange(count, device=images.device, dtype=images.dtype) - ring + 0.5 + lag) / side - 1
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).expand(len(images), -1, -1, -1)
    looked_up = torch.einsum("bij,bhwj->bhwi", matrix, grid) - lag / (side + 2 * margin)
    moved = F.grid_sample(fine, looked_up, mode="bilinear", padding_mode="reflection", align_corners=False)
    return _resampled(moved, taps, up=False)[..., ring // 2 : ring // 2 + side, ring // 2 : ring // 2 + side]


def _resampled(images: Tensor, taps: Tensor, up: bool) -> Tensor:
    """Twice or half the sides, by the wavelet in both directions, without a shift."""
    channels, length = images.shape[1], len(taps)
    for shape in ((1, 1, length, 1), (1, 1, 1, length)):
        kernel = taps.view(shape).expand(channels, -1, -1, -1)
        along = tuple(int(size > 1) for size in shape[2:])
        stride = tuple(1 + one for one in along)
        padding = tuple(one * (length // 2 - 1) for one in along)
        if up:
            images = F.conv_transpose2d(images, 2 * kernel, stride=stride, padding=padding, groups=channels)
        else:
            images = F.conv2d(images, kernel, stride=stride, padding=padding, groups=channels)
    return images


def recoloured(images: Tensor, colours: Tensor) -> Tensor:
    """Pictures [B,3,H,W] with their colours (r, g, b, 1) under a matrix [B,4,4]."""
    matrix = colours[:, :3]
    return torch.einsum("bij,bjhw->bihw", matrix[..., :3], images) + matrix[..., 3][..., None, None]


def _places(numbers: _Numbers, p: float, side: int) -> Tensor:
    """Blit and geometric transforms as one matrix [B,3,3]."""
    flip = 1 - 2 * (numbers.chance(p) & (numbers.uniform() < 0.5)).float()
    quarter = numbers.chance(p) * (numbers.uniform() * 4).floor().clamp(max=3) * (math.pi / 2)
    whole = numbers.chance(p)
    shift_x, shift_y = (whole * ((2 * numbers.uniform() - 1) * side / 8).round() * 2 / side for _ in range(2))
    size = torch.exp2(0.2 * numbers.normal() * numbers.chance(p))
    rotating = 1 - math.sqrt(1 - p)  # twice, so that both together have probability p
    before = numbers.chance(rotating) * math.pi * (2 * numbers.uniform() - 1)
    stretch = torch.exp2(0.2 * numbers.normal() * numbers.chance(p))
    after = numbers.chance(rotating) * math.pi * (2 * numbers.uniform() - 1)
    slide = numbers.chance(p)
    slide_x, slide_y = (slide * numbers.normal() * 0.125 * 2 for _ in range(2))
    geometric = _turn(before) @ _scale(1 / stretch, stretch) @ _turn(after) @ _shift(slide_x, slide_y)
    blit = _scale(flip, torch.ones_like(flip)) @ _turn(quarter) @ _shift(shift_x, shift_y)
    return blit @ _scale(1 / size, 1 / size) @ geometric


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _turn(angle: Tensor) -> Tensor:
    cosine, sine, nothing, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return _matrix([[cosine, -sine, nothing], [sine, cosine, nothing], [nothing, nothing, one]])


def _scale(x: Tensor, y: Tensor) -> Tensor:
    nothing, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([[x, nothing, nothing], [nothing, y, nothing], [nothing, nothing, one]])


def _shift(x: Tensor, y: Tensor) -> Tensor:
    nothing, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([[one, nothing, x], [nothing, one, y], [nothing, nothing, one]])


def _colours(numbers: _Numbers, p: float) -> Tensor:
    """Brightness, contrast, inverted luma, hue and saturation as one matrix [B,4,4]."""
    brightness = 0.2 * numbers.normal() * numbers.chance(p)
    contrast = torch.exp2(0.5 * numbers.normal() * numbers.chance(p))
    inverted = (numbers.chance(p) & (numbers.uniform() < 0.5)).float()
    hue = math.pi * (2 * numbers.uniform() - 1) * numbers.chance(p)
    saturation = torch.exp2(numbers.normal() * numbers.chance(p))
    axis = torch.full((3, 1), 3**-0.5, dtype=hue.dtype, device=hue.device)  # grey
    grey, same = axis @ axis.T, torch.eye(3, dtype=hue.dtype, device=hue.device)
    matrix = same - 2 * grey * inverted.view(-1, 1, 1)
    matrix = _about_grey(hue, grey, same) @ matrix
    matrix = (grey + (same - grey) * saturation.view(-1, 1, 1)) @ matrix
    moved = torch.cat([contrast.view(-1, 1, 1) * matrix, matrix @ _thrice(contrast * brightness)], dim=2)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=hue.dtype, device=hue.device).expand(len(hue), 1, 4)
    return torch.cat([moved, last], dim=1)


def _thrice(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1).expand(-1, 3, 1)


def _about_grey(angle: Tensor, grey: Tensor, same: Tensor) -> Tensor:
    """Rotations [B,3,3] of colours about the grey axis (Rodrigues)."""
    a = 3**-0.5
    cross = torch.tensor([[0.0, -a, a], [a, 0.0, -a], [-a, a, 0.0]], dtype=angle.dtype, device=angle.device)
    cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    return cosine * same + sine * cross + (1 - cosine) * grey
