"""The generator of StyleGAN2 (Karras et al. 2020), with skips: z -> w -> styles -> picture.

Names of weights are those of NVIDIA's PyTorch code, so that its files need no renaming.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mmig.methods.styleclip.layers import EqualLinear, activated, modulated_conv, pixel_norm, upsampled

AVERAGED_CODES = 4096
"""Random codes whose mean is the middle of W."""


class MappingNetwork(nn.Module):
    """f: z -> w, by linear layers `fc0`, `fc1`, ...

    Args:
        z_dim, w_dim: widths.
        num_layers: of them.
    """

    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, num_layers: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        for number in range(num_layers):
            self.add_module(f"fc{number}", EqualLinear(w_dim if number else z_dim, w_dim, lr_scale=0.01))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor) -> Tensor:
        """Codes w [B,w_dim] of z [B,z_dim]."""
        values = pixel_norm(z)
        for number in range(self.num_layers):
            values = activated(self.get_submodule(f"fc{number}")(values))
        return values


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias, activation.

    Args:
        num_in, num_out: channels. w_dim: of the code. resolution: of the output. upsample: from half of it.
    """

    noise_const: Tensor

    def __init__(self, num_in: int, num_out: int, w_dim: int, resolution: int, upsample: bool) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, num_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(num_out, num_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(num_out))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.upsample = upsample

    def forward(self, features: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """[B,num_out,R,R] of [B,num_in,...], style [B,num_in] and noise [B or 1,1,R,R]."""
        output = modulated_conv(features, self.weight, style, upsample=self.upsample)
        return activated(output + self.noise_strength * noise + self.bias[:, None, None])


class ToRGB(nn.Module):
    """Features -> what they add to the picture; without demodulation.

    Args:
        num_in: channels. w_dim: of the code.
    """

    def __init__(self, num_in: int, w_dim: int) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, num_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, num_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """[B,3,R,R] of [B,num_in,R,R] and style [B,num_in]."""
        return modulated_conv(features, self.weight, style, demodulate=False) + self.bias[:, None, None]


class SynthesisBlock(nn.Module):
    """The layers of one resolution.

    Args:
        num_in: channels of the half resolution; 0 for the first block, which begins with a constant.
        num_out: channels. w_dim: of the code. resolution: of the block.
    """

    def __init__(self, num_in: int, num_out: int, w_dim: int, resolution: int) -> None:
        super().__init__()
        if num_in:
            self.conv0 = StyledConv(num_in, num_out, w_dim, resolution, upsample=True)
        else:
            self.const = nn.Parameter(torch.randn(num_out, resolution, resolution))
        self.conv1 = StyledConv(num_out, num_out, w_dim, resolution, upsample=False)
        self.torgb = ToRGB(num_out, w_dim)

    @property
    def convs(self) -> tuple[StyledConv, ...]:
        """Its styled convolutions, in order."""
        return (self.conv0, self.conv1) if hasattr(self, "conv0") else (self.conv1,)


class StyleGenerator(ModelMixin, ConfigMixin):
    """StyleGAN2's generator; saved and loaded as diffusers' models are.

    Args:
        resolution: side of what it draws, a power of 2 of at least 8.
        z_dim, w_dim: widths of the codes.
        num_mapping_layers: between them.
        channel_base, channel_max: channels of a resolution R are min(channel_base / R, channel_max).
        margin: pixels on every side, around what it draws, that continue its rim: a small generator of pictures whose
            rim is plain spends nothing on it. 0 in the paper.

    Raises:
        ValueError: another resolution, or a margin below 0.
    """

    @register_to_config
    def __init__(
        self,
        resolution: int = 1024,
        z_dim: int = 512,
        w_dim: int = 512,
        num_mapping_layers: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
        margin: int = 0,
    ) -> None:
        super().__init__()
        if margin < 0:
            raise ValueError(f"generator.margin: expected pixels, at least 0, found {margin}")
        if resolution < 8 or resolution & (resolution - 1):
            raise ValueError(f"generator.resolution: expected a power of 2 of at least 8, found {resolution}")
        self.resolution, self.margin = resolution, margin
        self.mapping = MappingNetwork(z_dim, w_dim, num_mapping_layers)
        self.synthesis = nn.Module()
        widths = [min(channel_base // side, channel_max) for side in self.sides]
        for side, before, width in zip(self.sides, (0, *widths), widths, strict=False):
            self.synthesis.add_module(f"b{side}", SynthesisBlock(before, width, w_dim, side))

    @property
    def picture_side(self) -> int:
        """Side of its pictures, margin and all."""
        return self.resolution + 2 * self.margin

    def without_margin(self, images: Tensor) -> Tensor:
        """The middle [B,3,resolution,resolution] of pictures [B,3,picture_side,picture_side]."""
        middle = slice(self.margin, self.margin + self.resolution)
        return images[..., middle, middle]

    @property
    def sides(self) -> list[int]:
        """Resolutions of the blocks: 4, 8, ..."""
        return [2**power for power in range(2, int(math.log2(self.resolution)) + 1)]

    @property
    def num_codes(self) -> int:
        """Number of codes of W+: 18 for 1024 pixels."""
        return 2 * len(self.sides)

    @property
    def blocks(self) -> list[SynthesisBlock]:
        """From the smallest."""
        return [self.synthesis.get_submodule(f"b{side}") for side in self.sides]  # type: ignore[misc]

    @property
    def noise_sides(self) -> list[int]:
        """Side of each layer's noise, in their order."""
        return [side for side, block in zip(self.sides, self.blocks, strict=True) for _ in block.convs]

    def style_layers(self) -> list[tuple[int, bool, EqualLinear]]:
        """(index of its code in W+, whether it is one of a ToRGB, its affine) of every style, in the order of S.

        A block's ToRGB shares its code with the next block's first convolution.
        """
        layers, index = [], 0
        for block in self.blocks:
            for conv in block.convs:
                layers.append((index, False, conv.affine))
                index += 1
            layers.append((index, True, block.torgb.affine))
        return layers

    def styles(self, codes: Tensor) -> list[Tensor]:
        """S: one vector a layer (26 for 1024 pixels), each [B,C], of codes w+ [B,num_codes,w_dim]."""
        return [affine(codes[:, index]) for index, _, affine in self.style_layers()]

    def fixed_noise(self) -> list[Tensor]:
        """The stored noise of every layer, [1,1,R,R] each."""
        return [conv.noise_const[None, None] for block in self.blocks for conv in block.convs]

    def synthesise(self, styles: Sequence[Tensor], noise: Sequence[Tensor] | None = None) -> Tensor:
        """Pictures [B,3,picture_side,picture_side], about [-1,1] and not clamped.

        Args:
            styles: as `styles` gives them.
            noise: of every layer, [B or 1,1,R,R]; None: the stored one.
        """
        style, maps = iter(styles), iter(self.fixed_noise() if noise is None else noise)
        features, image = self.synthesis.b4.const.expand(len(styles[0]), -1, -1, -1), None
        for block in self.blocks:
            for conv in block.convs:
                features = conv(features, next(style), next(maps))
            colours = block.torgb(features, next(style))
            image = colours if image is None else upsampled(image) + colours
        return F.pad(image, (self.margin,) * 4, mode="replicate") if self.margin else image

    def forward(self, codes: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """G(w+): pictures of codes [B,num_codes,w_dim]; see `synthesise`."""
        return self.synthesise(self.styles(codes), noise)

    def codes(self, z: Tensor, truncation: float = 1.0, cutoff: int | None = None) -> Tensor:
        """w+ [B,num_codes,w_dim] of z [B,z_dim].

        Args:
            z: random codes.
            truncation: psi; below 1 it moves them towards the mean.
            cutoff: number of codes, from the first, that it moves; None: all.
        """
        w, mean = self.mapping(z), self.mapping.w_avg
        moved = torch.arange(self.num_codes, device=w.device) < (self.num_codes if cutoff is None else cutoff)
        return torch.where(moved[:, None], (mean + truncation * (w - mean))[:, None], w[:, None])

    @torch.no_grad()
    def code_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean [w_dim] and standard deviation (a scalar, over all directions) of w, of codes of a fixed seed."""
        z = torch.randn(AVERAGED_CODES, self.config.z_dim, generator=torch.Generator().manual_seed(0))
        w = self.mapping(z.to(self.device))
        return w.mean(0), (w - w.mean(0)).square().sum(1).mean().sqrt()

    @torch.no_grad()
    def measure_average(self) -> None:
        """Set the stored mean of w."""
        self.mapping.w_avg.copy_(self.code_statistics()[0])
