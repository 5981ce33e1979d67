"""A randomly initialised UNet of given sizes, for training from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass
class UNetSize:
    """Sizes of a UNet with cross-attention at every resolution.

    Attributes:
        block_out_channels: width of each resolution, the finest first.
        layers_per_block: residual blocks a resolution on the way down (one more on the way up).
        attention_heads: heads of every attention, or of those of each resolution (diffusers' `attention_head_dim`).
        norm_num_groups: groups of every group norm; must divide every width.
        sample_size: side of the latents, stored in the config.
        only_cross_attention: whether the latents of a resolution attend to the text alone, for all or for each.
    """

    block_out_channels: Sequence[int] = (320, 640, 1280)
    layers_per_block: int = 2
    attention_heads: int | list[int] = 8
    norm_num_groups: int = 32
    sample_size: int = 64
    only_cross_attention: bool | list[bool] = False


def fresh_unet(size: UNetSize, in_channels: int, out_channels: int, text_dim: int) -> "UNet2DConditionModel":
    """Build it; `text_dim` is the width of the text states."""
    from diffusers import UNet2DConditionModel

    stages = len(size.block_out_channels)
    return UNet2DConditionModel(
        sample_size=size.sample_size,
        in_channels=in_channels,
        out_channels=out_channels,
        down_block_types=("CrossAttnDownBlock2D",) * stages,
        up_block_types=("CrossAttnUpBlock2D",) * stages,
        block_out_channels=tuple(size.block_out_channels),
        layers_per_block=size.layers_per_block,
        cross_attention_dim=text_dim,
        attention_head_dim=size.attention_heads,
        only_cross_attention=size.only_cross_attention,
        norm_num_groups=size.norm_num_groups,
    )
