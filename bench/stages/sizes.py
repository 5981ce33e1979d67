"""The published configurations of MMIG's parts, as facts with their source: no file is read and none is fetched."""

from dataclasses import dataclass, field, replace
from typing import Any

# stabilityai/stable-diffusion-xl-base-1.0, unet/config.json
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


# black-forest-labs/FLUX.1-Kontext-dev: transformer, vae and text_encoder_2 (T5 v1.1 XXL), config.json of each
FLUX: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
FLUX_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
T5_XXL: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
OPEN_CLIP_BIGG: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}


@dataclass(frozen=True)
class Sizes:
    """Configurations of the parts, as the arguments of their libraries' classes.

    Attributes:
        llm, vision, text: LlamaConfig, CLIPVisionConfig, CLIPTextConfig.
        unet, vae: UNet2DConditionModel, AutoencoderKL.
        captioner: Blip2Config.
        sdxl, text_2: UNet2DConditionModel of SDXL, and the CLIPTextConfig of its second text encoder.
        flux, flux_vae, t5: FluxTransformer2DModel, AutoencoderKL and T5Config of FLUX.1 Kontext.
        mmsm: width and heads.
        resolution: pixels.
        mllm_side: pixels of the pictures that LLaVA's image tower sees; the rest of it is as `vision` and `llm`.
        maps: (h, w) of the attention maps (eq 19, 20).
    """

    llm: dict[str, Any]
    vision: dict[str, Any]
    text: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    captioner: dict[str, Any]
    sdxl: dict[str, Any] = field(default_factory=lambda: SDXL)
    text_2: dict[str, Any] = field(default_factory=lambda: OPEN_CLIP_BIGG)
    flux: dict[str, Any] = field(default_factory=lambda: FLUX)
    flux_vae: dict[str, Any] = field(default_factory=lambda: FLUX_VAE)
    t5: dict[str, Any] = field(default_factory=lambda: T5_XXL)
    mmsm: tuple[int, int] = (768, 8)
    resolution: int = 512
    mllm_side: int = 336  # llava-hf/llava-1.5-7b-hf, config.json
    maps: tuple[int, int] = (16, 16)


PUBLISHED = Sizes(
    # huggyllama/llama-7b, config.json
    llm={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    # openai/clip-vit-large-patch14, config.json, vision_config
    vision={
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "projection_dim": 768,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
    },
    # stable-diffusion-v1-5: text_encoder/config.json, unet/config.json, vae/config.json
    text={
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "projection_dim": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
    },
    unet={
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    vae={
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    },
    # Salesforce/blip2-opt-2.7b, config.json; image tower and Q-Former are the defaults of transformers
    captioner={
        "text_config": {
            "model_type": "opt",
            "vocab_size": 50304,
            "hidden_size": 2560,
            "ffn_dim": 10240,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "word_embed_proj_dim": 2560,
        },
        "num_query_tokens": 32,
        "image_token_index": 50265,
    },
)

QUARTER = replace(
    PUBLISHED,
    llm=PUBLISHED.llm
    | {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 16, "num_attention_heads": 4},
    text=PUBLISHED.text
    | {"hidden_size": 192, "intermediate_size": 768, "projection_dim": 192, "num_attention_heads": 3},
    unet=PUBLISHED.unet
    | {
        "block_out_channels": (80, 160, 320, 320),
        "norm_num_groups": 16,
        "attention_head_dim": 2,
        "cross_attention_dim": 192,
    },
    vae=PUBLISHED.vae | {"block_out_channels": (32, 64, 128, 128)},
    mmsm=(192, 2),
    resolution=128,
    mllm_side=112,
)
"""A quarter of the published widths, of the LLM an eighth and half of the layers; heads as wide as published."""

_OPT = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 32}
_BLOCKS = {"num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = Sizes(
    llm={"vocab_size": 2000, "hidden_size": 48, "intermediate_size": 96, "max_position_embeddings": 1024, **_BLOCKS},
    vision={"hidden_size": 40, "intermediate_size": 80, "image_size": 64, "patch_size": 32, **_BLOCKS},
    text={
        "vocab_size": 2000,
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 77,
        "bos_token_id": 878,
        "eos_token_id": 879,
        **_BLOCKS,
    },
    unet={
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
    },
    vae={
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 8,
        "sample_size": 64,
    },
    captioner={
        "vision_config": {"hidden_size": 32, "intermediate_size": 64, "image_size": 64, "patch_size": 16, **_BLOCKS},
        "qformer_config": {"hidden_size": 32, "intermediate_size": 64, "encoder_hidden_size": 32, **_BLOCKS},
        "text_config": {"model_type": "opt", "vocab_size": 2000, **_OPT},
        "num_query_tokens": 8,
        "image_token_index": 1990,
    },
    mmsm=(16, 2),
    resolution=64,
    mllm_side=64,
)
"""At which a step of any stage takes a moment on a CPU."""
