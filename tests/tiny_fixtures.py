"""Tiny backbones with RANDOM weights in the published folder layouts, for tests of everything that loads a backbone.

    from tests.tiny_fixtures import build_all
    paths = build_all(tmp_path)  # under a second; then load_vae(paths.stable_diffusion), load_llm(paths.llama), ...

Images are 64 pixels, latents 4x16x16 (f=4), the UNets attend to text at 16x16 and 8x8 (mid block 64x8x8), CLIP text
width 32, LLaMA width 48, CLIP vision width 40. The trained tiny backbones (assets/tiny) have the same layouts.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.tiny_text import (
    ClipLayout,
    LlamaTokenizerKind,
    write_clip_tokenizer,
    write_llama_tokenizer,
    write_opt_tokenizer,
)

IMAGE_SIZE, LATENT_SIZE, LATENT_CHANNELS, CONTEXT_LENGTH = 64, 16, 4, 77
TEXT_WIDTH, LLM_WIDTH, VISION_WIDTH, NUM_QUERY_TOKENS = 32, 48, 40, 8


@dataclass(frozen=True)
class TinyBackbones:
    """Folders of the tiny backbones, laid out as under assets/tiny."""

    stable_diffusion: Path
    instruct_pix2pix: Path
    llama: Path
    clip_vision: Path
    open_clip: Path
    blip2: Path


def build_all(root: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> TinyBackbones:
    """Write every tiny backbone under `root`, with the folder names of assets/tiny."""
    paths = TinyBackbones(
        root / "stable-diffusion",
        root / "instruct-pix2pix",
        root / "llama",
        root / "clip-vision",
        root / "clip",
        root / "blip2",
    )
    build_stable_diffusion(paths.stable_diffusion, seed=seed, dtype=dtype)
    build_instruct_pix2pix(paths.instruct_pix2pix, seed=seed + 1, dtype=dtype)
    build_llama(paths.llama, seed=seed + 2, dtype=dtype)
    build_clip_vision(paths.clip_vision, seed=seed + 3, dtype=dtype)
    build_open_clip(paths.open_clip, seed=seed + 4, dtype=dtype)
    build_blip2(paths.blip2, seed=seed + 5, dtype=dtype)
    return paths


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
    _write_json(root / "model_index.json", _model_index())
    build_vae(root / "vae", seed=seed, dtype=dtype)
    build_unet(root / "unet", seed=seed + 1, dtype=dtype)
    vocab_size = write_clip_tokenizer(root / "tokenizer", tokenizer_layout, CONTEXT_LENGTH)
    build_text_encoder(root / "text_encoder", vocab_size, seed=seed + 2, dtype=dtype, old_keys=old_text_keys)
    (root / "scheduler").mkdir(exist_ok=True)
    _write_json(
        root / "scheduler" / "scheduler_config.json", _NOISE | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    )
    return root


def build_instruct_pix2pix(root: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write an InstructPix2Pix folder: an 8-channel unet and its scheduler."""
    build_unet(root / "unet", in_channels=2 * LATENT_CHANNELS, seed=seed, dtype=dtype)
    (root / "scheduler").mkdir(exist_ok=True)
    _write_json(
        root / "scheduler" / "scheduler_config.json", _NOISE | {"_class_name": "EulerAncestralDiscreteScheduler"}
    )
    return root


def build_vae(
    folder: Path, *, latent_channels: int = LATENT_CHANNELS, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Path:
    """Write an AutoencoderKL with f=4 and 4 latent channels."""
    from diffusers import AutoencoderKL

    with _seeded(seed):
        model = AutoencoderKL(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=latent_channels,
            norm_num_groups=8,
            sample_size=IMAGE_SIZE,
            scaling_factor=0.5,
        )
    return _save(model, folder, dtype)


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

    with _seeded(seed):
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
    return _save(model, folder, dtype)


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
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=1,
    )
    with _seeded(seed):
        model = CLIPTextModel(config)
    _save(model, folder, dtype)
    if old_keys:
        file = folder / "model.safetensors"
        weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    return folder


def build_llama(
    folder: Path,
    *,
    tokenizer: LlamaTokenizerKind = "metaspace",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **save_options: Any,
) -> Path:
    """Write a LlamaForCausalLM and its tokenizer; `save_options` go to save_pretrained (max_shard_size for several
    files)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=write_llama_tokenizer(folder, tokenizer),
        hidden_size=LLM_WIDTH,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
    )
    with _seeded(seed):
        model = LlamaForCausalLM(config)
    return _save(model, folder, dtype, **save_options)


def build_clip_vision(folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write a CLIPVisionModel of 6 blocks and its image processor."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        projection_dim=32,
        num_hidden_layers=6,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=16,
    )
    with _seeded(seed):
        model = CLIPVisionModel(config)
    CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=IMAGE_SIZE).save_pretrained(folder)
    return _save(model, folder, dtype)


def build_open_clip(folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write an open_clip folder: open_clip_config.json, open_clip_model.safetensors and a CLIP tokenizer."""
    import open_clip
    from safetensors.torch import save_file

    vocab_size = write_clip_tokenizer(folder, "new", CONTEXT_LENGTH)
    model_config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": IMAGE_SIZE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocab_size,
            "hf_tokenizer_name": "tokenizer",
            "tokenizer_kwargs": {"clean": "lower"},
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    }
    normalisation = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    _write_json(folder / "open_clip_config.json", {"model_cfg": model_config, "preprocess_cfg": normalisation})
    with _seeded(seed):
        text = {key: value for key, value in model_config["text_cfg"].items() if key != "tokenizer_kwargs"}
        model = open_clip.CLIP(embed_dim=32, vision_cfg=model_config["vision_cfg"], text_cfg=text)
    weights = {name: value.to(dtype).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    return folder


def build_blip2(folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write a Blip2ForConditionalGeneration (8 query tokens, OPT) and its processor."""
    from transformers import (
        AutoTokenizer,
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessor,
        OPTConfig,
    )

    vocab_size = write_opt_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    images = BlipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    Blip2Processor(images, tokenizer, num_query_tokens=NUM_QUERY_TOKENS).save_pretrained(folder)
    opt = OPTConfig(
        vocab_size=vocab_size + 1,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=1,
    )
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config=vision | {"image_size": IMAGE_SIZE, "patch_size": 16},
        qformer_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        text_config=opt.to_dict(),
        num_query_tokens=NUM_QUERY_TOKENS,
        image_token_index=vocab_size,
    )
    with _seeded(seed):
        model = Blip2ForConditionalGeneration(config)
    return _save(model, folder, dtype)


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


def _save(model: nn.Module, folder: Path, dtype: torch.dtype, **options: Any) -> Path:
    nn.Module.to(model, dtype).save_pretrained(folder, **options)  # the base `to`: diffusers warns about its own
    return folder


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
