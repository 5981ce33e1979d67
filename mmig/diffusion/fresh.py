"""A randomly initialised UNet of given sizes, for training from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


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


def fresh_unet(size: UNetSize, in_channels: int, out_channels: int, text_dim: int) -> "UNet2DConditionModel":
    """Build it; `text_dim` is the width of the text states.

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
    )
