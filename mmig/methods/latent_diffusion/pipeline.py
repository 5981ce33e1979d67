"""Inference of the text-to-image denoiser: from noise, from the noised source (SDEdit) or from the inverted one."""

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
from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.drawing import draw_guided
from mmig.diffusion.guidance import guided, text_guidance
from mmig.diffusion.inversion import invert, make_ladder, reconstruct, without_guidance
from mmig.diffusion.latents import decode, encode, usual_resolution
from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.sampling import Generators, per_sample
from mmig.diffusion.text import encode_text, texts_cut
from mmig.editor import EditOutput, ResponseSource


@dataclass(frozen=True)
class DrawSampling:
    """How to sample.

    Attributes:
        num_steps: sampling steps.
        guidance_scale: classifier-free guidance; 1 switches it off.
        strength: how far back to go: below 1 sampling starts from the noised source latents (SDEdit, Meng et al. 2022),
            0 gives the source through the autoencoder; 1 draws from noise and needs no source.
        inversion: sampling starts from the source latents inverted under their own caption (DDIM inversion, Song et al.
            2021), as far up as `strength` says; at 1 too.
    """

    num_steps: int = 25
    guidance_scale: float = 4.0
    strength: float = 1.0
    inversion: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        check_values(self, "sampling")


class TextToImagePipeline:
    """Draws the images of target captions, or makes them of the sources.

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
        draws = self.sampling.strength == 1.0 and not self.sampling.inversion
        return ("target_caption",) if draws else ("source", "target_caption")

    @property
    def optional_fields(self) -> tuple[str, ...]:
        """The source's own caption where it is inverted; without one no text stands there."""
        return ("source_caption",) if self.sampling.inversion else ()

    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """Draw one image a sample, of the size of the batch's images."""
        texts, sampling = list(batch["target_caption"]), self.sampling
        generators, cut = per_sample(generator, len(texts)), texts_cut(self.tokenizer, texts, "target_caption")
        with torch.no_grad():
            if sampling.inversion:
                images = self.edit_inverted(batch["source"], batch.get("source_caption", [""] * len(texts)), texts)
            else:
                source = None if sampling.strength == 1.0 else encode(self.vae, batch["source"])
                images = self.draw(texts, batch["target"].shape[-2:], generators, source)
        return EditOutput(images, texts, {"cut": cut})

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
        return draw_guided(
            self.vae,
            self.unet,
            self.scheduler,
            self._branches(texts),
            text_guidance(self.sampling.guidance_scale),
            size,
            self.sampling.num_steps,
            per_sample(generators, len(texts)),
            self.text_encoder.device,
            source_latents,
            self.sampling.strength,
        )

    @torch.no_grad()
    def edit_inverted(self, source: Tensor, source_texts: Sequence[str], texts: Sequence[str]) -> Tensor:
        """Images [B,3,H,W] in [-1,1] of `texts`: `source` [B,3,H,W] inverted under its own texts, then drawn anew.

        Nothing is drawn at random. The way up is not guided: guidance multiplies its errors.
        """
        sampling, latents = self.sampling, encode(self.vae, source)
        if int(sampling.num_steps * sampling.strength) > 0:
            ladder = make_ladder(self.scheduler, sampling.num_steps, sampling.strength)
            process, own = NoiseProcess.from_scheduler(self.scheduler), self._branches(source_texts)["full"]
            noisy = invert(without_guidance(self._predict, own), process, latents, ladder)
            guidance = text_guidance(sampling.guidance_scale)
            latents = reconstruct(guided(self._predict, self._branches(texts), guidance), process, noisy, ladder)
        return decode(self.vae, latents).float().clamp(-1, 1)

    def _branches(self, texts: Sequence[str]) -> dict[str, Conditioning]:
        """Conditions of `text_guidance`."""
        states, _ = encode_text(self.text_encoder, self.tokenizer, texts)
        null = encode_text(self.text_encoder, self.tokenizer, [""])[0].expand_as(states)
        return {"full": Conditioning(states), "null": Conditioning(null)}

    def _predict(self, noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
        return denoise(self.unet, noisy, timesteps, condition)


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
