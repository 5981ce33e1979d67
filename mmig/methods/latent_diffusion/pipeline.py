"""Inference of the text-to-image denoiser: from noise, or from the noised source (SDEdit)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.diffusion import (
    check_compatible,
    load_scheduler,
    load_text_encoder,
    load_tokenizer,
    load_unet,
    load_vae,
)
from mmig.backbones.parts import PIPELINE, BackboneError
from mmig.base.values import check_values
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.drawing import draw_guided
from mmig.diffusion.guidance import text_guidance
from mmig.diffusion.latents import encode, usual_resolution
from mmig.diffusion.sampling import Generators, per_sample
from mmig.diffusion.text import encode_text, texts_cut
from mmig.editor import EditOutput, ResponseSource


@dataclass(frozen=True)
class DrawSampling:
    """How to sample.

    Attributes:
        num_steps: sampling steps.
        guidance_scale: classifier-free guidance; 1 switches it off.
        strength: 1 draws from noise and needs no source; below 1 sampling starts from the noised source latents.
    """

    num_steps: int = 25
    guidance_scale: float = 4.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        check_values(self, "sampling")


class TextToImagePipeline:
    """Draws the images of target captions.

    Args:
        vae: frozen autoencoder.
        unet: denoiser of as many input channels as the latents have.
        text_encoder: CLIP text encoder.
        tokenizer: its tokenizer.
        scheduler: any diffusers scheduler.
        sampling: how to sample.
    """

    response_source: ResponseSource = "given"

    def __init__(
        self,
        vae: nn.Module,
        unet: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        scheduler: Any,
        sampling: DrawSampling | None = None,
    ) -> None:
        self.vae, self.unet, self.text_encoder, self.tokenizer = vae, unet, text_encoder, tokenizer
        self.scheduler = scheduler
        self.sampling = sampling or DrawSampling()

    @property
    def resolution(self) -> int | None:
        """Of the images that the UNet was made for."""
        return usual_resolution(self.vae, self.unet)

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The caption, and the source where sampling starts from it."""
        return ("target_caption",) if self.sampling.strength == 1.0 else ("source", "target_caption")

    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """Draw one image a sample, of the size of the batch's images."""
        texts = list(batch["target_caption"])
        height, width = batch["target"].shape[-2:]
        source = None
        with torch.no_grad():
            if self.sampling.strength < 1.0:
                source = encode(self.vae, batch["source"])
            images = self.draw(texts, (height, width), generator, source)
        return EditOutput(images, texts, {"cut": texts_cut(self.tokenizer, texts, "target_caption")})

    @torch.no_grad()
    def draw(
        self,
        texts: Sequence[str],
        size: tuple[int, int],
        generators: Generators,
        source_latents: Tensor | None = None,
    ) -> Tensor:
        """Images [B,3,H,W] in [-1,1] of `texts`; `size` is (H, W) in pixels.

        Raises:
            ValueError: another number of generators than texts.
        """
        generators = per_sample(generators, len(texts))
        states, _ = encode_text(self.text_encoder, self.tokenizer, texts)
        null = encode_text(self.text_encoder, self.tokenizer, [""])[0].expand_as(states)
        branches = {"full": Conditioning(states), "null": Conditioning(null)}
        return draw_guided(
            self.vae,
            self.unet,
            self.scheduler,
            branches,
            text_guidance(self.sampling.guidance_scale),
            size,
            self.sampling.num_steps,
            generators,
            states.device,
            source_latents,
            self.sampling.strength,
        )


def open_editor(path: str, sampling: DrawSampling | None = None) -> TextToImagePipeline:
    """What draws with the text-to-image UNet of a Stable Diffusion folder or hub id.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
    """
    vae, unet = load_vae(path), load_unet(path).to(memory_format=torch.channels_last)
    if unet.config.in_channels != (expected := vae.config.latent_channels):
        raise BackboneError(
            f"{path}: expected a text-to-image UNet with {expected} input channels, found {unet.config.in_channels}; "
            "an editing UNet edits with mmig.methods.instruct_pix2pix.pipeline.open_editor"
        )
    text_encoder, tokenizer = load_text_encoder(path), load_tokenizer(path)
    check_compatible(unet, text_encoder, vae, tokenizer)
    return TextToImagePipeline(vae, unet, text_encoder, tokenizer, load_scheduler(path), sampling)


open_editor.backbone_settings = {"path": PIPELINE}  # type: ignore[attr-defined]  # for `python -m mmig.backbones fetch`
