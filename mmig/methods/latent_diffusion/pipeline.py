"""Inference of the text-to-image denoiser: from noise, or from the noised source (SDEdit)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.guidance import guided, text_guidance
from mmig.diffusion.latents import decode, encode, latent_shape
from mmig.diffusion.sampling import per_sample, sample
from mmig.diffusion.text import encode_text
from mmig.editor import EditOutput, ResponseSource


class TextToImagePipeline:
    """Draws the images of target captions.

    Args:
        vae: frozen autoencoder.
        unet: denoiser of as many input channels as the latents have.
        text_encoder: CLIP text encoder.
        tokenizer: its tokenizer.
        scheduler: any diffusers scheduler.
        num_steps: sampling steps.
        guidance_scale: classifier-free guidance; 1 switches it off.
        strength: 1 draws from noise and needs no source; below 1 sampling starts from the noised source latents.
    """

    response_source: ResponseSource = "given"

    def __init__(
        self,
        vae: nn.Module,
        unet: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        scheduler: Any,
        num_steps: int = 25,
        guidance_scale: float = 4.0,
        strength: float = 1.0,
    ) -> None:
        self.vae, self.unet, self.text_encoder, self.tokenizer = vae, unet, text_encoder, tokenizer
        self.scheduler = scheduler
        self.num_steps = num_steps
        self.guidance_scale = guidance_scale
        self.strength = strength

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The caption, and the source where sampling starts from it."""
        return ("target_caption",) if self.strength == 1.0 else ("source", "target_caption")

    def __call__(self, batch: Batch, generator: torch.Generator | Sequence[torch.Generator]) -> EditOutput:
        """Draw one image a sample, of the size of the batch's images."""
        texts = list(batch["target_caption"])
        height, width = batch["target"].shape[-2:]
        source = None
        with torch.no_grad():
            if self.strength < 1.0:
                source = encode(self.vae, batch["source"])
            images = self.draw(texts, (height, width), per_sample(generator, len(texts)), source)
        return EditOutput(images=images, texts=texts)

    @torch.no_grad()
    def draw(
        self,
        texts: Sequence[str],
        size: tuple[int, int],
        generators: Sequence[torch.Generator],
        source_latents: Tensor | None = None,
    ) -> Tensor:
        """Images [B,3,H,W] in [-1,1] of `texts`; `size` is (H, W) in pixels."""
        states, _ = encode_text(self.text_encoder, self.tokenizer, texts)
        null = encode_text(self.text_encoder, self.tokenizer, [""])[0].expand_as(states)
        branches = {"full": Conditioning(states), "null": Conditioning(null)}
        denoiser = guided(
            lambda noisy, timesteps, condition: denoise(self.unet, noisy, timesteps, condition),
            branches,
            text_guidance(self.guidance_scale),
        )
        latents = sample(
            denoiser,
            self.scheduler,
            latent_shape(self.vae, *size),
            self.num_steps,
            generators,
            source_latents=source_latents,
            strength=self.strength,
            device=states.device,
        )
        return decode(self.vae, latents).clamp(-1, 1)
