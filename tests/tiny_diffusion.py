"""Tiny folders of Stable Diffusion and InstructPix2Pix with random weights, and their parts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tests.tiny_saving import (
    CONTEXT_LENGTH,
    IMAGE_SIZE,
    LATENT_CHANNELS,
    LATENT_SIZE,
    TEXT_WIDTH,
    save,
    seeded,
    write_json,
)
from tests.tiny_text import ClipLayout, write_clip_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPTextConfig


def build_stable_diffusion(
    root: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    old_text_keys: bool = True,
    tokenizer_layout: ClipLayout = "old",
) -> Path:
    """Write a Stable Diffusion 1.5 folder: vae, unet, text_encoder, tokenizer, scheduler, model_index.json.

    Args:
        old_text_keys: name the text encoder's weights with the `text_model.` prefix, as published files do.
        tokenizer_layout: "old" = vocab.json and merges.txt, "new" = tokenizer.json.
    """
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "model_index.json", _model_index())
    build_vae(root / "vae", seed=seed, dtype=dtype)
    build_unet(root / "unet", seed=seed + 1, dtype=dtype)
    vocab_size = write_clip_tokenizer(root / "tokenizer", tokenizer_layout, CONTEXT_LENGTH)
    build_text_encoder(root / "text_encoder", vocab_size, seed=seed + 2, dtype=dtype, old_keys=old_text_keys)
    (root / "scheduler").mkdir(exist_ok=True)
    write_json(
        root / "scheduler" / "scheduler_config.json", _NOISE | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    )
    return root


def build_instruct_pix2pix(root: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write an InstructPix2Pix folder: an 8-channel unet and its scheduler."""
    build_unet(root / "unet", in_channels=2 * LATENT_CHANNELS, seed=seed, dtype=dtype)
    (root / "scheduler").mkdir(exist_ok=True)
    write_json(
        root / "scheduler" / "scheduler_config.json", _NOISE | {"_class_name": "EulerAncestralDiscreteScheduler"}
    )
    return root


def build_vae(
    folder: Path,
    *,
    latent_channels: int = LATENT_CHANNELS,
    shift_factor: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write an AutoencoderKL with f=4 and 4 latent channels."""
    from diffusers import AutoencoderKL

    with seeded(seed):
        model = AutoencoderKL(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=latent_channels,
            norm_num_groups=8,
            sample_size=IMAGE_SIZE,
            scaling_factor=0.5,
            shift_factor=shift_factor,
        )
    return save(model, folder, dtype)


def build_unet(
    folder: Path,
    *,
    in_channels: int = LATENT_CHANNELS,
    cross_attention_dim: int = TEXT_WIDTH,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a UNet2DConditionModel that attends to text at 16x16 and 8x8."""
    from diffusers import UNet2DConditionModel

    with seeded(seed):
        model = UNet2DConditionModel(
            in_channels=in_channels,
            out_channels=LATENT_CHANNELS,
            sample_size=LATENT_SIZE,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=cross_attention_dim,
        )
    return save(model, folder, dtype)


def text_config(vocab_size: int, width: int, projected: int) -> "CLIPTextConfig":
    """Of a tiny text tower; `projected` is the width of its projection, where the model has one."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projected,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=1,
    )


def build_text_encoder(
    folder: Path,
    vocab_size: int,
    *,
    width: int = TEXT_WIDTH,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    old_keys: bool = True,
) -> Path:
    """Write a CLIPTextModel; `old_keys` puts the published `text_model.` prefix before every weight's name."""
    from safetensors.torch import load_file, save_file
    from transformers import CLIPTextModel

    with seeded(seed):
        model = CLIPTextModel(text_config(vocab_size, width, width))
    save(model, folder, dtype)
    if old_keys:
        file = folder / "model.safetensors"
        weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    return folder


_NOISE = {
    "_diffusers_version": "0.6.0",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def _model_index() -> dict[str, Any]:
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
