"""A tiny folder of FLUX.1 Kontext with random weights, in the published layout."""

from pathlib import Path

import torch
from torch import nn

from tests.tiny_diffusion import build_text_encoder, build_vae
from tests.tiny_saving import CONTEXT_LENGTH, TEXT_WIDTH, save, seeded, write_json
from tests.tiny_t5 import build_t5_encoder
from tests.tiny_text import write_clip_tokenizer

T5_LENGTH = 24
"""Tokens that the tiny T5 reads of a text."""
WIDTH = 64
"""Of the tiny transformer: two heads of 32."""


def build_flux_kontext(root: Path, *, guidance_embeds: bool = True, dynamic: bool = True, seed: int = 0) -> Path:
    """Write a FluxKontextPipeline: transformer, vae with a shift, text_encoder (CLIP), text_encoder_2 (T5), tokenizers,
    scheduler, model_index.json.

    Args:
        guidance_embeds: whether the transformer is told a scale of guidance.
        dynamic: whether the scheduler's shift depends on the number of tokens; else it is 3.
    """
    root.mkdir(parents=True, exist_ok=True)
    parts = {
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(
        root / "model_index.json", {"_class_name": "FluxKontextPipeline", "_diffusers_version": "0.34.0", **parts}
    )
    build_vae(root / "vae", shift_factor=0.2, seed=seed)
    vocab_size = write_clip_tokenizer(root / "tokenizer", "old", CONTEXT_LENGTH)
    build_text_encoder(root / "text_encoder", vocab_size, seed=seed + 1)
    build_t5_encoder(root / "text_encoder_2", root / "tokenizer_2", T5_LENGTH, seed=seed + 2)
    build_transformer(root / "transformer", guidance_embeds=guidance_embeds, seed=seed + 3)
    (root / "scheduler").mkdir(exist_ok=True)
    schedule = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": dynamic,
    }
    write_json(root / "scheduler" / "scheduler_config.json", schedule)
    return root


def build_transformer(folder: Path, *, guidance_embeds: bool = False, t5_width: int = 16, seed: int = 0) -> Path:
    """Write a FluxTransformer2DModel of two joint and two single blocks whose gates are open."""
    from diffusers import FluxTransformer2DModel

    with seeded(seed):
        model = FluxTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=WIDTH // 2,
            num_attention_heads=2,
            joint_attention_dim=t5_width,
            pooled_projection_dim=TEXT_WIDTH,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 14, 14),
        )
        for name, value in model.named_parameters():
            if ".norm" in name or "embedder.linear_2" in name:
                nn.init.normal_(value, std=0.3)  # random ones are nearly closed, so that no block would matter
    return save(model, folder, torch.float32)
