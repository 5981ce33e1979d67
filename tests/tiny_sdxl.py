"""A tiny pipeline of SDXL's shape, with random weights."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.tiny_diffusion import build_text_encoder, build_vae, text_config
from tests.tiny_saving import save, seeded
from tests.tiny_text import write_clip_tokenizer

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

CONTEXT, POOLED = 48, 20
"""Widths of the denoiser's tokens and of its pooled vector."""


def sdxl_unet(widths: tuple[int, int], context: int, pooled: int) -> "UNet2DConditionModel":
    """SDXL's shape: cross-attention below the first resolution only, several layers a block, pooled text and sizes."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        norm_num_groups=8,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=context,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=pooled + 6 * 8,
    )


def build_sdxl(folder: Path, seed: int = 3) -> Path:
    """Write an SDXL-shaped pipeline: two text encoders, a denoiser that is told sizes and a pooled vector."""
    from diffusers import EulerDiscreteScheduler
    from transformers import CLIPTextModelWithProjection

    build_vae(folder / "vae", seed=seed)
    vocabulary = write_clip_tokenizer(folder / "tokenizer")
    write_clip_tokenizer(folder / "tokenizer_2")
    build_text_encoder(folder / "text_encoder", vocabulary, width=32)
    with seeded(seed):
        second = CLIPTextModelWithProjection(text_config(vocabulary, 16, POOLED))
        unet = sdxl_unet((32, 64), CONTEXT, POOLED)
    save(second, folder / "text_encoder_2", torch.float32)
    save(unet, folder / "unet", torch.float32)
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    EulerDiscreteScheduler(**settings).save_pretrained(folder / "scheduler")
    return folder
