"""Stable Diffusion's parts: VAE, UNet (4 or 8 input channels), CLIP text encoder, its tokenizer, scheduler; and
whether they fit.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmig.backbones.files import read_json
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Origin, Source
from mmig.backbones.parts import (
    SCHEDULER,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    TOKENIZER,
    TOKENIZER_2,
    UNET,
    VAE,
    BackboneError,
)

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


def load_vae(
    path: Source,
    *,
    dtype: torch.dtype | str = torch.float32,
    frozen: bool = True,
    gradient_checkpointing: bool = False,
) -> "AutoencoderKL":
    """The autoencoder: images [B,3,H,W] in [-1,1] <-> latents [B,4,H/f,W/f] (before `config.scaling_factor`).

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
    """
    from diffusers import AutoencoderKL

    folder = locate(path, VAE)
    model = load_strictly(AutoencoderKL, folder, dtype)
    return prepare(model, frozen=frozen, gradient_checkpointing=gradient_checkpointing)


def load_unet(
    path: Source,
    *,
    in_channels: int | None = None,
    dtype: torch.dtype | str = torch.float32,
    frozen: bool = True,
    gradient_checkpointing: bool = False,
) -> "UNet2DConditionModel":
    """The denoiser: noisy latents [B,in_channels,h,w], timesteps [B], text states [B,L,D] -> [B,4,h,w].

    Args:
        in_channels: input channels wanted; more than stored ones widen the first convolution (see `widen_input`).

    Raises:
        BackboneError: a missing or broken file, another model in that folder, or fewer channels than stored.
    """
    from diffusers import UNet2DConditionModel

    folder = locate(path, UNET)
    model = load_strictly(UNet2DConditionModel, folder, dtype)
    stored = model.config.in_channels
    if in_channels is not None and in_channels != stored:
        if in_channels < stored:
            raise BackboneError(
                f"{folder / 'config.json'}: the UNet has in_channels {stored}, the config wants {in_channels}; "
                f"give in_channels {stored} (or leave it out), or another UNet"
            )
        widen_input(model, in_channels)
    return prepare(model, frozen=frozen, gradient_checkpointing=gradient_checkpointing)


def widen_input(unet: "UNet2DConditionModel", in_channels: int) -> None:
    """Give the first convolution more input channels, in place: new ones zero, pretrained weights and bias kept.

    So the widened UNet computes what the old one did, whatever the new channels hold (InstructPix2Pix, section 3.2).
    """
    old = unet.conv_in
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        if old.bias is not None:
            new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=in_channels)


def load_text_encoder(
    path: Source,
    *,
    dtype: torch.dtype | str = torch.float32,
    frozen: bool = True,
    gradient_checkpointing: bool = False,
) -> "CLIPTextModel":
    """CLIP's text tower: ids int64 [B,L] -> `last_hidden_state` [B,L,D]; files with and without the `text_model.`
    prefix.

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
    """
    from transformers import CLIPTextModel

    folder = locate(path, TEXT_ENCODER)
    rest_of_clip = r"vision_model\.|visual_projection\.|text_projection\.|logit_scale"
    model = load_strictly(CLIPTextModel, folder, dtype, ignore=rest_of_clip)
    return prepare(model, frozen=frozen, gradient_checkpointing=gradient_checkpointing)


def load_second_text_encoder(
    path: Source, *, dtype: torch.dtype | str = torch.float32
) -> "CLIPTextModelWithProjection":
    """SDXL's second text encoder, OpenCLIP bigG's text side, frozen: ids int64 [B,L] -> hidden states and `text_embeds`
    [B,P].

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
    """
    from transformers import CLIPTextModelWithProjection

    model = load_strictly(CLIPTextModelWithProjection, locate(path, TEXT_ENCODER_2), dtype)
    return prepare(model, frozen=True, gradient_checkpointing=False)


def load_tokenizer(path: Source) -> "CLIPTokenizer":
    """CLIP's tokenizer, from vocab.json + merges.txt or from tokenizer.json.

    Raises:
        BackboneError: a missing or broken file.
    """
    from transformers import CLIPTokenizer

    folder = locate(path, TOKENIZER)
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # json, tokenizers' Rust errors, OSError
        raise BackboneError(f"{folder}: cannot be read as a CLIP tokenizer: {error}; fetch it again") from error


def load_scheduler(path: Source) -> "SchedulerMixin":
    """The noise schedule: the class of diffusers that scheduler_config.json names.

    Raises:
        BackboneError: a missing or broken file, or a class that diffusers does not have.
    """
    import diffusers

    file = locate(path, SCHEDULER) / "scheduler_config.json"
    config = read_json(file)
    name = config.get("_class_name", "")
    chosen = getattr(diffusers, name, None)
    if chosen is None or not name.endswith("Scheduler"):
        raise BackboneError(f"{file}: expected _class_name to be a diffusers scheduler, found {name!r}")
    return chosen.from_config(config)


def load_both_text_encoders(
    path: Source,
) -> tuple[tuple[nn.Module, nn.Module], tuple["CLIPTokenizer", "CLIPTokenizer"]]:
    """SDXL's two text encoders and their tokenizers, of a pipeline's folder or hub id, frozen.

    Raises:
        BackboneError: one of them is missing or broken.
    """
    encoders = load_text_encoder(path), load_second_text_encoder(path)
    return encoders, (load_tokenizer(path), load_tokenizer(Origin(str(path), TOKENIZER_2)))


def check_compatible(
    unet: nn.Module,
    text_encoder: nn.Module | None = None,
    vae: nn.Module | None = None,
    tokenizer: Any | None = None,
    text_encoder_2: nn.Module | None = None,
) -> None:
    """Raise BackboneError where loaded parts do not fit each other: text width, latent channels, vocabulary, context;
    SDXL's second text encoder, the width of its vector too; and where an autoencoder's latents have no scale.

    Names in the message are the folders that the parts were loaded from.
    """
    if text_encoder is not None:
        wanted, found = unet.config.cross_attention_dim, text_encoder.config.hidden_size
        if text_encoder_2 is not None:
            found += text_encoder_2.config.hidden_size
        _expect(unet, "cross_attention_dim", wanted, text_encoder, "hidden_size", found)
    if text_encoder_2 is not None:
        sizes = 6 * (unet.config.addition_time_embed_dim or 0)
        wanted, found = unet.config.projection_class_embeddings_input_dim, text_encoder_2.config.projection_dim + sizes
        told = f"projection_dim and {sizes} of sizes,"
        _expect(unet, "projection_class_embeddings_input_dim", wanted, text_encoder_2, told, found)
    if vae is not None:
        check_scale(vae)
        latents = vae.config.latent_channels
        _expect(unet, "out_channels", unet.config.out_channels, vae, "latent_channels", latents)
        if unet.config.in_channels not in (latents, 2 * latents):
            raise BackboneError(
                f"{_origin(unet)}: in_channels {unet.config.in_channels} is neither the {latents} latent channels of "
                f"{_origin(vae)} nor twice as many (source latents beside the noisy ones); give a fitting pair"
            )
    if tokenizer is not None and text_encoder is not None:
        check_tokenizer(tokenizer, text_encoder)


def check_scale(vae: nn.Module) -> None:
    """Raise BackboneError unless an autoencoder's config says its latent scale, which `null` leaves open."""
    found = vae.config.get("scaling_factor")
    if not isinstance(found, float | int) or not 0.0 < found < float("inf"):
        raise BackboneError(
            f"{_origin(vae)}: config.json: scaling_factor: expected the measured scale of its latents, found {found}; "
            "measure it: python -m mmig.methods.latent_diffusion.scale --vae FOLDER --data FILE"
        )


def check_tokenizer(tokenizer: Any, text_model: nn.Module) -> None:
    """Raise BackboneError where a tokenizer's ids or maximal length exceed what a text model (CLIP or LLM) has."""
    vocabulary = text_model.config.vocab_size
    if len(tokenizer) > vocabulary:
        raise BackboneError(
            f"{tokenizer.name_or_path}: {len(tokenizer)} tokens, but {_origin(text_model)} has a vocab_size of "
            f"{vocabulary}; give the tokenizer that belongs to the model"
        )
    positions = text_model.config.max_position_embeddings
    if tokenizer.model_max_length < 1_000_000 and tokenizer.model_max_length > positions:  # 1e30 stands for "not set"
        raise BackboneError(
            f"{tokenizer.name_or_path}: model_max_length {tokenizer.model_max_length}, but {_origin(text_model)} has "
            f"{positions} positions; give the tokenizer that belongs to the model"
        )


def _expect(a: nn.Module, a_key: str, a_value: int, b: nn.Module, b_key: str, b_value: int) -> None:
    if a_value != b_value:
        raise BackboneError(
            f"{_origin(a)}: {a_key} {a_value} does not fit {b_key} {b_value} of {_origin(b)}; give parts of one model"
        )


def _origin(model: nn.Module) -> str:
    return str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
