"""The pretrained parts of MMIG: where they come from, what of them trains, and the fresh modules between them."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from mmig.backbones.llm import Quantisation
from mmig.backbones.named import Backbone, Origin, origins
from mmig.backbones.parts import BLIP2_PARTS, CLIP_VISION, DENOISER, DENOISER_PIPELINE, LLM_PARTS, VAE
from mmig.diffusion.fresh import FluxSize, flow_scheduler, fresh_flux
from mmig.diffusion.kinds import kind_of
from mmig.methods.mmig.captioner import Captioner, load_captioner
from mmig.methods.mmig.mmsm import MMSM
from mmig.methods.mmig.token_connectors.connector import ConnectorSettings, TokenConnector

BACKBONES = {
    "backbones.diffusion": DENOISER_PIPELINE,
    "backbones.unet": {"unet": DENOISER},
    "backbones.vae": {"vae": VAE},
    "backbones.llm": LLM_PARTS,
    "backbones.vision": {"clip_vision": CLIP_VISION},
    "backbones.captioner": BLIP2_PARTS,
}
"""What is loaded from each setting of `BackboneConfig`."""


@dataclass
class BackboneConfig:
    """Hub ids or folders of the pretrained parts.

    Attributes:
        diffusion: pipeline folder with vae, text_encoder, tokenizer, scheduler and the denoiser: a unet, or the
            transformer of FLUX with text_encoder_2 and tokenizer_2 (FLUX.1 Kontext).
        llm: causal language model and its tokenizer.
        unet: another denoiser than the pipeline folder's; or sizes of a fresh transformer, trained by flow matching.
        vae: another autoencoder than the pipeline folder's, with the same latents: one whose decoder was fine-tuned.
        vision: CLIP's image tower, through which the language model sees (stages 2-5); None for text only.
        captioner: BLIP-2 (stage 5, and captions of new images); None for none.
        dtype: of the frozen weights.
        gradient_checkpointing: compute activations again in the backward pass to save memory.
        quantise_llm: "4bit" keeps the frozen language model's matrices in 4 bits (NF4; an NVIDIA GPU and the extra
            `cuda`); its fingerprint stays that of the files.
    """

    diffusion: str | Backbone
    llm: str | Backbone
    unet: str | Backbone | FluxSize | None = None
    vae: str | Backbone | None = None
    vision: str | Backbone | None = None
    captioner: str | Backbone | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    quantise_llm: Quantisation = "none"


@dataclass
class MMSMConfig:
    """Sizes and places of the mutual support modules.

    Attributes:
        dim: common width d of text and features.
        heads: attention heads.
        locations: module paths in the denoiser; one module each. [] is a denoiser without MMSM.
        start: size of what fresh modules add, as a part of the text encoder's states' (`MMSM`); 0 leaves the denoiser
            as it is at first.
    """

    dim: int = 768
    heads: int = 8
    locations: list[str] = field(default_factory=lambda: ["mid_block"])
    start: float = 0.0


@dataclass
class Parts:
    """The loaded parts of MMIG; `unet` is the denoiser, `mmsm` holds one module a location (dots of the path written as
    dashes), `connector` what makes tokens of the LLM's states, where there is one.
    """

    unet: nn.Module
    vae: nn.Module
    text_encoder: nn.Module
    tokenizer: Any
    scheduler: Any
    llm: nn.Module
    llm_tokenizer: Any
    mmsm: nn.ModuleDict
    vision: nn.Module | None = None
    captioner: Captioner | None = None
    text_encoder_2: nn.Module | None = None
    tokenizer_2: Any | None = None
    connector: TokenConnector | None = None


def load_parts(
    backbones: BackboneConfig,
    mmsm: MMSMConfig,
    trained: Container[str] = (),
    connector: ConnectorSettings | None = None,
) -> Parts:
    """Load the pretrained parts and build fresh mutual support modules, or another connector, that fit them.

    Frozen parts have the configured dtype, trained ones ("unet", "captioner") float32.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
        ValueError: a location that the UNet does not have.
    """
    from mmig.backbones import clip, diffusion, llm

    places = origins(BACKBONES, {"backbones": backbones})
    options = {"dtype": getattr(torch, backbones.dtype), "gradient_checkpointing": backbones.gradient_checkpointing}
    # convolutions are faster in this memory format, on CPUs and on GPUs with tensor cores
    vae = diffusion.load_vae(places["vae"], **options).to(memory_format=torch.channels_last)
    text_encoder = diffusion.load_text_encoder(places["text_encoder"], **options)
    tokenizer = diffusion.load_tokenizer(places["tokenizer"])
    read = _Reading(vae, text_encoder, tokenizer, *_second_text_encoder(places, options["dtype"]))
    unet_options = options | ({"dtype": torch.float32, "frozen": False} if "unet" in trained else {})
    unet, scheduler = _denoiser(backbones.unet, places, read, unet_options)
    model = llm.load_llm(places["llm"], quantise=backbones.quantise_llm, **options)
    modules = {
        path.replace(".", "-"): MMSM(
            model.config.hidden_size, feature_width(unet, path), mmsm.dim, mmsm.heads, mmsm.start
        )
        for path in mmsm.locations
    }
    vision = clip.load_clip_vision(places["clip_vision"], **options) if "clip_vision" in places else None
    captioner = None
    if "blip2" in places:
        captioner = load_captioner(places["blip2"].path, trainable="captioner" in trained, **options)
    return Parts(
        unet,
        vae,
        text_encoder,
        tokenizer,
        scheduler,
        model,
        llm.load_llm_tokenizer(places["llm_tokenizer"]),
        nn.ModuleDict(modules),
        vision,
        captioner,
        read.text_encoder_2,
        read.tokenizer_2,
        connector and connector.build(model.config.hidden_size, token_width(unet)),
    )


class _Reading(NamedTuple):
    """What the denoiser must fit."""

    vae: nn.Module
    text_encoder: nn.Module
    tokenizer: Any
    text_encoder_2: nn.Module | None
    tokenizer_2: Any | None


def _second_text_encoder(places: Mapping[str, Origin], dtype: torch.dtype) -> tuple[nn.Module | None, Any | None]:
    from mmig.backbones.diffusion_flux import load_t5_encoder, load_t5_tokenizer

    if "text_encoder_2" not in places or "tokenizer_2" not in places:
        return None, None
    return load_t5_encoder(places["text_encoder_2"], dtype=dtype), load_t5_tokenizer(places["tokenizer_2"])


def _denoiser(
    given: object, places: Mapping[str, Origin], read: _Reading, options: Mapping[str, Any]
) -> tuple[nn.Module, Any]:
    """The loaded or fresh denoiser, and the scheduler that it was or is to be trained with."""
    from mmig.backbones.diffusion import check_compatible, load_scheduler
    from mmig.backbones.diffusion_flux import check_flux, load_denoiser
    from mmig.backbones.loading import prepare

    parts = (read.vae, read.text_encoder, read.tokenizer)
    if isinstance(given, FluxSize):
        width = read.text_encoder.config.hidden_size
        unet = fresh_flux(given, read.vae.config.latent_channels, width, width)
        checkpointing = options["gradient_checkpointing"]
        unet = prepare(unet, frozen=options.get("frozen", True), gradient_checkpointing=checkpointing)
        scheduler = flow_scheduler(given.shift)
    else:
        unet = load_denoiser(places["unet"], **options).to(memory_format=torch.channels_last)
        scheduler = load_scheduler(places["scheduler"])
    if kind_of(unet).reads_pooled:
        check_flux(unet, *parts, read.text_encoder_2)
    else:
        check_compatible(unet, read.text_encoder, read.vae, read.tokenizer)
    return unet, scheduler


def feature_width(unet: nn.Module, location: str) -> int:
    """Channels of the feature map that a block of a denoiser puts out.

    Raises:
        ValueError: no block at which something may be attached.
    """
    known = kind_of(unet).widths(unet)
    if location not in known:
        what = type(unet).__name__.replace("2DConditionModel", "").replace("2DModel", "")
        raise ValueError(f"mmsm.locations: no block {location!r} in the {what}; it has {', '.join(known)}")
    return known[location]


def token_width(denoiser: nn.Module) -> int:
    """Width of the text states that a denoiser reads: a UNet's cross-attention, or joint attention's."""
    config = denoiser.config
    return config.get("cross_attention_dim") or config["joint_attention_dim"]
