"""A tiny random FLUX transformer with gates that are open, and what it is called with in tests."""

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from mmig.diffusion.conditioning import Conditioning
from tests.mmig.diffusion.tiny_denoisers import awake, draw
from tests.tiny_flux import WIDTH

SIZE, GRID, TOKENS, TEXT = (8, 12), (4, 6), 24, 7
TIMES = torch.tensor([250.0, 900.0])
BLOCKS = ("transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.0", "single_transformer_blocks.1")


def build(guidance: bool = False) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=WIDTH // 2,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=18,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 14, 14),
    )
    for name, value in model.named_parameters():
        if ".norm." in name:  # of the single blocks
            nn.init.normal_(value, std=0.3)
    return awake(model).eval()


def latents(seed: int = 1) -> Tensor:
    return draw(2, 4, *SIZE, seed=seed)


def condition(source: bool = True) -> Conditioning:
    return Conditioning(draw(2, TEXT, 12, seed=2), None, draw(2, 18, seed=3), latents(4) if source else None)
