"""A tiny UNet with random weights, inputs and concepts, for the tests of attention."""

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from mmig.diffusion.concepts import ConceptTokens

TEXT_DIM, LENGTH = 32, 7


def build_unet() -> UNet2DConditionModel:
    """The small world's UNet, narrower, frozen: cross-attention at 16x16 and 8x8."""
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=TEXT_DIM,
    )
    return model.requires_grad_(False).eval()


class Inputs:
    """Fixed latents and text states, and a call of the UNet with them."""

    def __init__(self, batch: int = 2, size: tuple[int, int] = (16, 16)) -> None:
        generator = torch.Generator().manual_seed(1)
        self.latents = torch.randn(batch, 4, *size, generator=generator)
        self.tokens = 3 * torch.randn(batch, LENGTH, TEXT_DIM, generator=generator)
        self.mask: Tensor | None = None

    def __call__(self, unet: nn.Module, rows: slice = slice(None)) -> Tensor:
        mask = None if self.mask is None else self.mask[rows]
        return unet(self.latents[rows], 500, self.tokens[rows], encoder_attention_mask=mask).sample


def two_concepts(batch: int) -> ConceptTokens:
    positions = torch.tensor([[[1, 2], [4, -1]]]).expand(batch, -1, -1)
    none = torch.zeros(batch, dtype=torch.int64)
    return ConceptTokens(
        positions, torch.ones(batch, 2, dtype=torch.bool), torch.ones(batch, LENGTH, dtype=torch.bool), none, none
    )
