"""FLUX's parts: the transformer, T5's encoder and its tokenizer; and whether they fit. The others, and the loader of
whatever denoiser a folder holds, are Stable Diffusion's (`diffusion.py`).
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmig.backbones.diffusion import check_scale, check_tokenizer, load_unet
from mmig.backbones.files import read_json
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.parts import DENOISER, T5_ENCODER, T5_TOKENIZER, BackboneError

if TYPE_CHECKING:
    from transformers import T5EncoderModel, T5Tokenizer


def load_denoiser(
    path: Source,
    *,
    dtype: torch.dtype | str = torch.float32,
    frozen: bool = True,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """The UNet or the FLUX transformer of a folder, by the class that its config.json names.

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
    """
    from diffusers import FluxTransformer2DModel

    folder = locate(path, DENOISER)
    if read_json(folder / "config.json").get("_class_name") == "UNet2DConditionModel":
        return load_unet(folder, dtype=dtype, frozen=frozen, gradient_checkpointing=gradient_checkpointing)
    model = load_strictly(FluxTransformer2DModel, folder, dtype)
    return prepare(model, frozen=frozen, gradient_checkpointing=gradient_checkpointing)


def load_t5_encoder(path: Source, *, dtype: torch.dtype | str = torch.float32) -> "T5EncoderModel":
    """T5's encoder, frozen: ids int64 [B,L] -> `last_hidden_state` [B,L,D].

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
    """
    from transformers import T5EncoderModel

    model = load_strictly(T5EncoderModel, locate(path, T5_ENCODER), dtype, ignore=r"decoder\.|lm_head\.")
    return prepare(model, frozen=True, gradient_checkpointing=False)


def load_t5_tokenizer(path: Source) -> "T5Tokenizer":
    """T5's tokenizer, from tokenizer.json.

    Raises:
        BackboneError: a missing or broken file.
    """
    from transformers import T5Tokenizer

    folder = locate(path, T5_TOKENIZER)
    try:
        return T5Tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # json, tokenizers' Rust errors, OSError
        raise BackboneError(f"{folder}: cannot be read as a T5 tokenizer: {error}; fetch it again") from error


def check_flux(
    transformer: nn.Module, vae: nn.Module, text_encoder: nn.Module, tokenizer: Any, text_encoder_2: nn.Module | None
) -> None:
    """Raise BackboneError where FLUX's parts do not fit each other: widths of text, latent channels, vocabulary.

    Without `text_encoder_2` CLIP's states stand for T5's, where they are as wide as the transformer wants them.
    """
    check_scale(vae)
    check_tokenizer(tokenizer, text_encoder)
    config, name = transformer.config, _name(transformer)
    clip = text_encoder.config.hidden_size
    wanted, found = config.joint_attention_dim, clip if text_encoder_2 is None else text_encoder_2.config.d_model
    if wanted != found and text_encoder_2 is None:
        raise BackboneError(
            f"{name}: joint_attention_dim: expected a text_encoder_2 (T5) of width {wanted} with tokenizer_2 beside "
            f"it, found none, and text_encoder has {clip}; fetch the whole pipeline"
        )
    pairs = {
        "joint_attention_dim": (wanted, found, "d_model of text_encoder_2"),
        "pooled_projection_dim": (config.pooled_projection_dim, clip, "hidden_size of text_encoder"),
        "in_channels": (config.in_channels, 4 * vae.config.latent_channels, "4 times latent_channels of vae"),
    }
    for key, (wanted, found, what) in pairs.items():
        if wanted != found:
            raise BackboneError(f"{name}: {key} {wanted} does not fit {found}, the {what}; give parts of one model")


def _name(model: nn.Module) -> str:
    return str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
