"""Randomly initialised denoisers of given sizes, for training from scratch: a UNet, and a transformer of FLUX's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from mmig.diffusion.sdxl import sdxl_embedding

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel, UNet2DConditionModel


@dataclass
class UNetSize:
    """Sizes of a UNet with cross-attention.

    Attributes:
        block_out_channels: width of each resolution, the finest first.
        layers_per_block: residual blocks a resolution on the way down (one more on the way up).
        attention_heads: heads of every attention, or of those of each resolution (diffusers' `attention_head_dim`).
        norm_num_groups: groups of every group norm; must divide every width.
        sample_size: side of the latents, stored in the config.
        attends: whether the resolutions have attention, all or each; Stable Diffusion's coarsest has none. The middle
            always has.
        only_cross_attention: whether the latents of a resolution attend to the text alone, for all or for each.
    """

    block_out_channels: Sequence[int] = (320, 640, 1280)
    layers_per_block: int = 2
    attention_heads: int | list[int] = 8
    norm_num_groups: int = 32
    sample_size: int = 64
    only_cross_attention: bool | list[bool] = False
    attends: bool | list[bool] = True


def fresh_unet(
    size: UNetSize, in_channels: int, out_channels: int, text_dim: int, pooled_dim: int | None = None
) -> "UNet2DConditionModel":
    """Build it.

    Args:
        size: of it.
        in_channels, out_channels: of the latents.
        text_dim: width of the text states.
        pooled_dim: of SDXL's pooled vector, beside which it is then told sizes; None: Stable Diffusion's.

    Raises:
        ValueError: `attends` of another number of resolutions.
    """
    from diffusers import UNet2DConditionModel

    stages = len(size.block_out_channels)
    attends = [size.attends] * stages if isinstance(size.attends, bool) else size.attends
    if len(attends) != stages:
        raise ValueError(f"unet.attends: expected a value for each of {stages} resolutions, found {len(attends)}")
    return UNet2DConditionModel(
        sample_size=size.sample_size,
        in_channels=in_channels,
        out_channels=out_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attends)),
        block_out_channels=tuple(size.block_out_channels),
        layers_per_block=size.layers_per_block,
        cross_attention_dim=text_dim,
        attention_head_dim=size.attention_heads,
        only_cross_attention=size.only_cross_attention,
        norm_num_groups=size.norm_num_groups,
        **({} if pooled_dim is None else sdxl_embedding(pooled_dim)),
    )


@dataclass
class FluxSize:
    """Sizes of a FLUX transformer, and the flow matching that it is trained with. Defaults are FLUX.1's.

    Attributes:
        num_layers: joint blocks, in which text and image have weights of their own.
        num_single_layers: single blocks behind them, in which both share all.
        attention_heads: of every attention.
        head_dim: width of a head, a multiple of 32; the transformer is `attention_heads * head_dim` wide.
        shift: of the noise levels (Esser et al. 2024, section 5.3.2): sqrt(numbers of a latent / 4096) by their rule,
            0.5 for 16x16x4.
    """

    num_layers: int = 19
    num_single_layers: int = 38
    attention_heads: int = 24
    head_dim: int = 128
    shift: float = 3.0


def fresh_flux(size: FluxSize, latent_channels: int, text_dim: int, pooled_dim: int) -> "FluxTransformer2DModel":
    """Build it, its gates closed and its answer zero, as DiT begins (Peebles & Xie 2023, adaLN-Zero).

    Args:
        size: of the transformer.
        latent_channels: of the autoencoder; tokens are 2x2 patches.
        text_dim: width of the text states.
        pooled_dim: of the pooled vector.

    Raises:
        ValueError: a head whose width cannot be shared out among the three axes of the positions.
    """
    from diffusers import FluxTransformer2DModel

    if size.head_dim < 1 or size.head_dim % 32:
        raise ValueError(f"unet.head_dim: expected a multiple of 32, found {size.head_dim}")
    time, place = size.head_dim // 8, size.head_dim * 7 // 16  # 16, 56 and 56 of FLUX.1's 128
    model = FluxTransformer2DModel(
        in_channels=4 * latent_channels,
        num_layers=size.num_layers,
        num_single_layers=size.num_single_layers,
        attention_head_dim=size.head_dim,
        num_attention_heads=size.attention_heads,
        joint_attention_dim=text_dim,
        pooled_projection_dim=pooled_dim,
        axes_dims_rope=(time, place, place),
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and (name == "proj_out" or ".norm" in f".{name}"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def flow_scheduler(shift: float) -> "FlowMatchEulerDiscreteScheduler":
    """Flow matching with a fixed shift of the noise levels."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=shift)
