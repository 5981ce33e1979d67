"""Weights under the names of the original code (CompVis' latent diffusion), from those of diffusers and transformers.

Written from the shape of the original networks, apart from diffusers' tables, which translate the other way.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

UNET_INSIDE = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_unet_name(name: str, config: Mapping[str, Any]) -> str:
    """One list of blocks on the way down and one up, each of a residual block, attention, and a change of size."""
    layers = config["layers_per_block"] + 1
    where, rest = name.rsplit(".", 1)
    if where in UNET_OUTSIDE:
        return f"{UNET_OUTSIDE[where]}.{rest}"
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        kind, number, inside = found.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{_inside(inside)}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name)
    assert found, name
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
    return f"{UNET_INSIDE.get(first, first)}.{rest}"


def original_vae_name(name: str, blocks: int) -> str:
    """Blocks of the decoder are counted from the finest."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", name):
        return f"{found[1]}.mid.block_{int(found[2]) + 1}.{found[3]}"
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return f"{found[1]}.mid.attn_1.{VAE_ATTENTION[found[2]]}.{found[3]}"
    if found := re.fullmatch(r"encoder\.down_blocks\.(\d)\.(resnets\.(\d)|downsamplers\.0)\.(.+)", name):
        inside = "downsample" if found[3] is None else f"block.{found[3]}"
        return f"encoder.down.{found[1]}.{inside}.{found[4]}"
    if found := re.fullmatch(r"decoder\.up_blocks\.(\d)\.(resnets\.(\d)|upsamplers\.0)\.(.+)", name):
        inside = "upsample" if found[3] is None else f"block.{found[3]}"
        return f"decoder.up.{blocks - 1 - int(found[1])}.{inside}.{found[4]}"
    return name


def original_unet(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    return {f"model.diffusion_model.{original_unet_name(name, config)}": value for name, value in state.items()}


def average_names(unet: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names under which the original code keeps the averages of weights; beside them two counters."""
    named = {"model_ema." + name[len("model.") :].replace(".", ""): value for name, value in unet.items()}
    return named | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(22000)}


def original_vae(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Attention is made of convolutions of one pixel."""
    blocks, named = len(config["block_out_channels"]), {}
    for name, value in state.items():
        projection = re.search(r"attentions\.0\.to_\w+(\.0)?\.weight$", name)
        named[f"first_stage_model.{original_vae_name(name, blocks)}"] = value[:, :, None, None] if projection else value
    return named


def original_text_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' own names, as they were, and a buffer that it does not store any more."""
    prefix = "cond_stage_model.transformer.text_model."
    named = {prefix + name.removeprefix("text_model."): value for name, value in state.items()}
    length = named[f"{prefix}embeddings.position_embedding.weight"].shape[0]
    return named | {f"{prefix}embeddings.position_ids": torch.arange(length)[None]}


def original_state(folder: Path, unet: Path | None = None) -> dict[str, Tensor]:
    """All weights of a folder in diffusers' layout, with the schedule that the original code stores beside them.

    Args:
        folder: of a pipeline.
        unet: folder of another UNet.
    """
    import json

    def part(place: Path, file: str = "diffusion_pytorch_model") -> tuple[dict[str, Tensor], dict[str, Any]]:
        return load_file(place / f"{file}.safetensors"), json.loads((place / "config.json").read_text())

    text, _ = part(folder / "text_encoder", "model")
    return {
        "betas": torch.linspace(0.00085, 0.012, 1000),
        **original_unet(*part(unet or folder / "unet")),
        **original_vae(*part(folder / "vae")),
        **original_text_encoder(text),
    }
