"""Sizes of MMIG's parts at which a step of any stage takes a moment on a CPU."""

import torch

from bench.stages.sizes import Sizes

OPT = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 32}
BLOCKS = {"num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = Sizes(
    llm={"vocab_size": 800, "hidden_size": 48, "intermediate_size": 96, "max_position_embeddings": 1024, **BLOCKS},
    vision={"hidden_size": 40, "intermediate_size": 80, "image_size": 64, "patch_size": 32, **BLOCKS},
    text={
        "vocab_size": 900,
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 77,
        "bos_token_id": 878,
        "eos_token_id": 879,
        **BLOCKS,
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
        "vision_config": {"hidden_size": 32, "intermediate_size": 64, "image_size": 64, "patch_size": 16, **BLOCKS},
        "qformer_config": {"hidden_size": 32, "intermediate_size": 64, "encoder_hidden_size": 32, **BLOCKS},
        "text_config": {"model_type": "opt", "vocab_size": 700, **OPT},
        "num_query_tokens": 8,
        "image_token_index": 690,
    },
    mmsm=(16, 2),
    resolution=64,
)
CPU = torch.device("cpu")
