"""Tiny backbones with RANDOM weights in the published folder layouts, for tests of everything that loads a backbone.

    from tests.tiny_fixtures import build_all
    paths = build_all(tmp_path)  # under a second; then load_vae(paths.stable_diffusion), load_llm(paths.llama), ...

Images are 64 pixels, latents 4x16x16 (f=4), the UNets attend to text at 16x16 and 8x8 (mid block 64x8x8), CLIP text
width 32, LLaMA width 48, CLIP vision width 40. The trained tiny backbones (assets/tiny) have the same layouts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.tiny_diffusion import (
    build_instruct_pix2pix,
    build_stable_diffusion,
    build_text_encoder,
    build_unet,
    build_vae,
)
from tests.tiny_saving import (
    CONTEXT_LENGTH,
    IMAGE_SIZE,
    LLM_WIDTH,
    NUM_QUERY_TOKENS,
    TEXT_WIDTH,
    VISION_WIDTH,
    save,
    seeded,
    write_json,
)
from tests.tiny_text import LlamaTokenizerKind, write_clip_tokenizer, write_llama_tokenizer, write_opt_tokenizer

__all__ = [
    "IMAGE_SIZE",
    "LLM_WIDTH",
    "NUM_QUERY_TOKENS",
    "TEXT_WIDTH",
    "VISION_WIDTH",
    "TinyBackbones",
    "build_all",
    "build_blip2",
    "build_clip_vision",
    "build_instruct_pix2pix",
    "build_llama",
    "build_open_clip",
    "build_stable_diffusion",
    "build_text_encoder",
    "build_unet",
    "build_vae",
]


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
    with seeded(seed):
        model = LlamaForCausalLM(config)
    return save(model, folder, dtype, **save_options)


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
    with seeded(seed):
        model = CLIPVisionModel(config)
    CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=IMAGE_SIZE).save_pretrained(folder)
    return save(model, folder, dtype)


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
    write_json(folder / "open_clip_config.json", {"model_cfg": model_config, "preprocess_cfg": normalisation})
    with seeded(seed):
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
    with seeded(seed):
        model = Blip2ForConditionalGeneration(config)
    return save(model, folder, dtype)
