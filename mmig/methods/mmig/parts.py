"""The pretrained parts of MMIG: where they come from, what of them trains, and the fresh modules between them."""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from mmig.backbones.llm import Quantisation
from mmig.backbones.named import Backbone, origins
from mmig.backbones.parts import BLIP2_PARTS, CLIP_VISION, LLM_PARTS, PIPELINE, UNET, VAE
from mmig.methods.mmig.captioner import Captioner, load_captioner
from mmig.methods.mmig.mmsm import MMSM

BACKBONES = {
    "backbones.diffusion": PIPELINE,
    "backbones.unet": {"unet": UNET},
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
        diffusion: pipeline folder with vae, unet, text_encoder, tokenizer and scheduler.
        llm: causal language model and its tokenizer.
        unet: another UNet than the pipeline folder's.
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
    unet: str | Backbone | None = None
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
        locations: module paths in the UNet; one module each.
    """

    dim: int = 768
    heads: int = 8
    locations: list[str] = field(default_factory=lambda: ["mid_block"])


@dataclass
class Parts:
    """The loaded parts of MMIG; `mmsm` holds one module a location (dots of the path written as dashes)."""

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


def load_parts(backbones: BackboneConfig, mmsm: MMSMConfig, trained: Container[str] = ()) -> Parts:
    """Load the pretrained parts and build fresh mutual support modules that fit them.

    Frozen parts have the configured dtype, trained ones ("unet", "captioner") float32.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
        ValueError: a location that the UNet does not have.
    """
    from mmig.backbones import clip, diffusion, llm

    places = origins(BACKBONES, {"backbones": backbones})
    options = {"dtype": getattr(torch, backbones.dtype), "gradient_checkpointing": backbones.gradient_checkpointing}
    # convolutions are faster in this memory format, on CPUs and on GPUs with tensor cores
    unet_options = options | ({"dtype": torch.float32, "frozen": False} if "unet" in trained else {})
    unet = diffusion.load_unet(places["unet"], **unet_options).to(memory_format=torch.channels_last)
    vae = diffusion.load_vae(places["vae"], **options).to(memory_format=torch.channels_last)
    text_encoder = diffusion.load_text_encoder(places["text_encoder"], **options)
    tokenizer = diffusion.load_tokenizer(places["tokenizer"])
    diffusion.check_compatible(unet, text_encoder, vae, tokenizer)
    model = llm.load_llm(places["llm"], quantise=backbones.quantise_llm, **options)
    modules = {
        path.replace(".", "-"): MMSM(model.config.hidden_size, feature_width(unet, path), mmsm.dim, mmsm.heads)
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
        diffusion.load_scheduler(places["scheduler"]),
        model,
        llm.load_llm_tokenizer(places["llm_tokenizer"]),
        nn.ModuleDict(modules),
        vision,
        captioner,
    )


def feature_width(unet: nn.Module, location: str) -> int:
    """Channels of the feature map that a block of a diffusers UNet puts out.

    Raises:
        ValueError: the location is neither mid_block nor a down or up block that exists.
    """
    widths = unet.config.block_out_channels
    known = {"mid_block": widths[-1]}
    known |= {f"down_blocks.{i}": width for i, width in enumerate(widths)}
    known |= {f"up_blocks.{i}": width for i, width in enumerate(reversed(widths))}
    if location not in known:
        raise ValueError(f"mmsm.locations: no block {location!r} in the UNet; it has {', '.join(known)}")
    return known[location]
