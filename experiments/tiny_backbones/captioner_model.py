"""The tiny captioner as a `Blip2ForConditionalGeneration`, and how its ViT starts from the tiny CLIP's image tower.

What is trained with which loss is in `captioner.py`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import Blip2ForConditionalGeneration, CLIPVisionModel, GPT2Tokenizer

IMAGE_TOKEN = "<image>"


@dataclass
class CaptionerSize:
    """Widths of the captioner's three parts."""

    image_size: int = 64
    patch_size: int = 8
    vision_width: int = 128
    vision_layers: int = 6
    query_width: int = 128
    query_layers: int = 2
    num_query_tokens: int = 16
    text_width: int = 128
    text_layers: int = 3
    head_width: int = 32
    max_positions: int = 128


def build_captioner(size: CaptionerSize, tokenizer: "GPT2Tokenizer") -> "Blip2ForConditionalGeneration":
    """A randomly initialised BLIP-2 of this size for this vocabulary, without dropout."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, OPTConfig
    from transformers.models.blip_2.configuration_blip_2 import Blip2VisionConfig

    vision = Blip2VisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=4 * size.vision_width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_width // size.head_width,
        image_size=size.image_size,
        patch_size=size.patch_size,
        initializer_range=0.02,  # the class's default, 1e-10, is for published weights only
    )
    query = Blip2QFormerConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.query_width,
        intermediate_size=4 * size.query_width,
        num_hidden_layers=size.query_layers,
        num_attention_heads=size.query_width // size.head_width,
        encoder_hidden_size=size.vision_width,
        cross_attention_frequency=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    text = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.text_width,
        ffn_dim=4 * size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_width // size.head_width,
        max_position_embeddings=size.max_positions,
        word_embed_proj_dim=size.text_width,
        dropout=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = Blip2Config(
        vision_config=vision,
        qformer_config=query,
        text_config=text,
        num_query_tokens=size.num_query_tokens,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
    )
    model = Blip2ForConditionalGeneration(config)
    # the class starts its queries at zero, where all of them are alike and stay so
    torch.nn.init.normal_(model.query_tokens, std=0.5)
    return model


@torch.no_grad()
def start_from_clip(model: "Blip2ForConditionalGeneration", clip: "CLIPVisionModel", images: Tensor) -> None:
    """Copy CLIP's image tower into BLIP-2's ViT, which has no norm in front of its blocks.

    That norm is folded into the embeddings with the mean standard deviation of the tokens of `images` (normalised
    pixels [N,3,H,W]): exact in its mean and affine part, approximate in the deviation.

    Raises:
        ValueError: the two towers have different shapes.
    """
    source, target = dict(clip.state_dict()), model.vision_model.state_dict()
    norm = clip.pre_layrnorm
    deviation = clip.embeddings(images).std(-1, unbiased=False).mean()
    factor = norm.weight / deviation

    def folded(embedding: Tensor) -> Tensor:
        return factor * (embedding - embedding.mean(-1, keepdim=True))

    patches = source["embeddings.patch_embedding.weight"]
    centred = patches - patches.mean(0, keepdim=True)
    positions = folded(source["embeddings.position_embedding.weight"])
    values = {
        "embeddings.patch_embedding.weight": factor[:, None, None, None] * centred,
        "embeddings.patch_embedding.bias": norm.bias,
        "embeddings.position_embedding": positions[None],
        "embeddings.class_embedding": (folded(source["embeddings.class_embedding"]) + norm.bias)[None, None],
    }
    for name in target:
        if name in values or name.startswith("embeddings."):
            continue
        values[name] = _tower_weight(source, name)
    for name, value in values.items():
        if target[name].shape != value.shape:
            raise ValueError(
                f"captioner: vision weight {name} has shape {list(target[name].shape)}, the CLIP tower to start from "
                f"has {list(value.shape)}; give both the same vision_width, patch_size and image_size"
            )
        target[name].copy_(value)


def _tower_weight(source: dict[str, Tensor], name: str) -> Tensor:
    """CLIP's value of a weight of BLIP-2's blocks: one matrix for query, key and value, else another name."""
    if ".qkv." in name:
        return torch.cat([source[name.replace("qkv", f"{part}_proj")] for part in "qkv"])
    return source[name.replace("self_attn.projection", "self_attn.out_proj")]
