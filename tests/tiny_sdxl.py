"""A tiny pipeline of SDXL's shape, with random weights."""

from pathlib import Path

import torch

from tests.tiny_diffusion import build_text_encoder, build_vae
from tests.tiny_saving import save, seeded
from tests.tiny_text import write_clip_tokenizer

CONTEXT, POOLED = 48, 20
"""Widths of the denoiser's tokens and of its pooled vector."""


def build_sdxl(folder: Path, seed: int = 3) -> Path:
    """Write an SDXL-shaped pipeline: two text encoders, a denoiser that is told sizes and a pooled vector."""
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    build_vae(folder / "vae", seed=seed)
    vocabulary = write_clip_tokenizer(folder / "tokenizer")
    write_clip_tokenizer(folder / "tokenizer_2")
    build_text_encoder(folder / "text_encoder", vocabulary, width=32)
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=POOLED,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=1,
    )
    with seeded(seed):
        second = CLIPTextModelWithProjection(config)
        unet = UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            sample_size=16,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            transformer_layers_per_block=(1, 2),
            norm_num_groups=8,
            attention_head_dim=(2, 4),
            cross_attention_dim=CONTEXT,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + POOLED,
            use_linear_projection=True,
        )
    save(second, folder / "text_encoder_2", torch.float32)
    save(unet, folder / "unet", torch.float32)
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    EulerDiscreteScheduler(**settings).save_pretrained(folder / "scheduler")
    return folder
