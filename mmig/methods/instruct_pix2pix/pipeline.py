"""Inference of InstructPix2Pix: three branches, two guidance scales."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.guidance import guided, instruct_pix2pix_guidance
from mmig.diffusion.latents import decode, encode_unscaled, latent_shape
from mmig.diffusion.sampling import per_sample, sample
from mmig.diffusion.text import encode_text
from mmig.editor import EditOutput, ResponseSource

TextField = Literal["instruction", "response", "target_caption"]


@dataclass(frozen=True)
class EditSampling:
    """How to sample; the defaults are those of the published method.

    Attributes:
        num_steps: of the sampler.
        guidance_scale: weight of the text.
        image_guidance_scale: weight of the source image.
    """

    num_steps: int = 100
    guidance_scale: float = 7.5
    image_guidance_scale: float = 1.5


class InstructPix2PixPipeline:
    """Edits the source image by a text of the batch.

    Args:
        vae: frozen autoencoder.
        unet: denoiser with twice as many input channels as the latents have.
        text_encoder: CLIP text encoder.
        tokenizer: its tokenizer.
        scheduler: any diffusers scheduler.
        text: which text of the batch is followed.
        sampling: how to sample.
    """

    def __init__(
        self,
        vae: nn.Module,
        unet: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        scheduler: Any,
        text: TextField = "instruction",
        sampling: EditSampling | None = None,
    ) -> None:
        self.vae, self.unet, self.text_encoder, self.tokenizer = vae, unet, text_encoder, tokenizer
        self.scheduler = scheduler
        self.text: TextField = text
        sampling = sampling or EditSampling()
        self.num_steps = sampling.num_steps
        self.guidance_scale = sampling.guidance_scale
        self.image_guidance_scale = sampling.image_guidance_scale
        self.required_fields: tuple[str, ...] = ("source", text)
        self.response_source: ResponseSource = "none" if text == "instruction" else "given"

    def __call__(self, batch: Batch, generator: torch.Generator | Sequence[torch.Generator]) -> EditOutput:
        """Edit a batch."""
        texts = list(batch[self.text])
        images = self.edit(batch["source"], texts, per_sample(generator, len(texts)))
        return EditOutput(images=images, texts=[""] * len(texts) if self.text == "instruction" else texts)

    @torch.no_grad()
    def edit(self, source: Tensor, texts: Sequence[str], generators: Sequence[torch.Generator]) -> Tensor:
        """Images [B,3,H,W] in [-1,1] made from `source` [B,3,H,W] in [-1,1] by `texts`."""
        latents = encode_unscaled(self.vae, source)
        states, _ = encode_text(self.text_encoder, self.tokenizer, texts)
        null = encode_text(self.text_encoder, self.tokenizer, [""])[0].expand_as(states)
        branches = {
            "full": Conditioning(states, image_latents=latents),
            "image": Conditioning(null, image_latents=latents),
            "null": Conditioning(null, image_latents=torch.zeros_like(latents)),
        }
        denoiser = guided(
            lambda noisy, timesteps, condition: denoise(self.unet, noisy, timesteps, condition),
            branches,
            instruct_pix2pix_guidance(self.guidance_scale, self.image_guidance_scale),
        )
        result = sample(
            denoiser,
            self.scheduler,
            latent_shape(self.vae, *source.shape[-2:]),
            self.num_steps,
            generators,
            device=source.device,
        )
        return decode(self.vae, result).clamp(-1, 1)
