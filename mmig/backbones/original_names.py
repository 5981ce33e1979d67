"""Weights under the names of the original code (CompVis' latent diffusion), from those of diffusers and transformers.

The way back are diffusers' own tables (`original.py`); these names are written from the shape of the networks.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
AVERAGE_PREFIX = "model_ema."
SCALE = "scale_factor"
"""Where the latent scale lies that was measured in training."""

_UNET_INSIDE = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_unet_name(name: str, config: Mapping[str, Any]) -> str:
    """Name of a weight of a UNet2DConditionModel inside the original one.

    There is one list of blocks on the way down and one up, each of a residual block, attention, and a change of size.

    Args:
        name: in diffusers.
        config: of the UNet.
    """
    layers = config["layers_per_block"] + 1
    where, rest = name.rsplit(".", 1)
    if where in _UNET_OUTSIDE:
        return f"{_UNET_OUTSIDE[where]}.{rest}"
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        kind, number, inside = found.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{_inside(inside)}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name)
    assert found, name  # another kind of UNet
    way, block, kind, number, inside = found.groups()
    blocks = "input_blocks" if way == "down" else "output_blocks"
    place = int(block) * layers + (way == "down")
    if kind == "downsamplers":
        return f"{blocks}.{place + layers - 1}.0.{inside.replace('conv', 'op')}"
    if kind == "upsamplers":
        attends = "CrossAttn" in config["up_block_types"][int(block)]
        return f"{blocks}.{place + layers - 1}.{2 if attends else 1}.{inside}"
    return f"{blocks}.{place + int(number)}.{int(kind == 'attentions')}.{_inside(inside)}"


def _inside(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"{_UNET_INSIDE.get(first, first)}.{rest}"


def original_vae_name(name: str, blocks: int) -> str:
    """Name of a weight of an AutoencoderKL in the original one, whose decoder counts its `blocks` from the finest."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", name):
        return f"{found[1]}.mid.block_{int(found[2]) + 1}.{found[3]}"
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return f"{found[1]}.mid.attn_1.{_VAE_ATTENTION[found[2]]}.{found[3]}"
    if found := re.fullmatch(r"encoder\.down_blocks\.(\d)\.(resnets\.(\d)|downsamplers\.0)\.(.+)", name):
        inside = "downsample" if found[3] is None else f"block.{found[3]}"
        return f"encoder.down.{found[1]}.{inside}.{found[4]}"
    if found := re.fullmatch(r"decoder\.up_blocks\.(\d)\.(resnets\.(\d)|upsamplers\.0)\.(.+)", name):
        inside = "upsample" if found[3] is None else f"block.{found[3]}"
        return f"decoder.up.{blocks - 1 - int(found[1])}.{inside}.{found[4]}"
    return name


def original_unet(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of a UNet2DConditionModel by their original names."""
    return {UNET_PREFIX + original_unet_name(name, config): value for name, value in state.items()}


def average_name(name: str) -> str:
    """Name of the average of a UNet's weight: without the dots of its own (LDM's LitEma)."""
    return AVERAGE_PREFIX + name.removeprefix("model.").replace(".", "")


def original_vae(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of an AutoencoderKL by their original names; its attention is made of convolutions of one pixel."""
    blocks, named = len(config["block_out_channels"]), {}
    for name, value in state.items():
        projection = re.search(r"attentions\.0\.to_\w+(\.0)?\.weight$", name)
        named[VAE_PREFIX + original_vae_name(name, blocks)] = value[:, :, None, None] if projection else value
    return named


def original_text_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a CLIPTextModel by transformers' names as they were, and a buffer that it does not store any more."""
    prefix = f"{TEXT_PREFIX}text_model."
    named = {prefix + name.removeprefix("text_model."): value for name, value in state.items()}
    length = named[f"{prefix}embeddings.position_embedding.weight"].shape[0]
    return named | {f"{prefix}embeddings.position_ids": torch.arange(length)[None]}
