"""Inference of InstructPix2Pix: three branches, two guidance scales."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
from mmig.backbones.parts import PIPELINE, TEXT_ENCODER, TOKENIZER, VAE, BackboneError
from mmig.base.values import check_values
from mmig.diffusion.drawing import draw_guided
from mmig.diffusion.guidance import instruct_pix2pix_guidance, source_branches
from mmig.diffusion.latents import encode_unscaled, usual_resolution
from mmig.diffusion.sampling import Generators, per_sample
from mmig.diffusion.text import encode_text, texts_cut
from mmig.editor import EditOutput, ResponseSource

TextField = Literal["instruction", "response", "target_caption", "expressive"]


@dataclass(frozen=True)
class EditSampling:
    """How to sample; the defaults are those of the published method.

    Attributes:
        num_steps: of the sampler.
        guidance_scale: weight of the text.
        image_guidance_scale: weight of the source image.
        text: which text of the batch is followed; None: the one that the UNet was trained on.
    """

    num_steps: int = 100
    guidance_scale: float = 7.5
    image_guidance_scale: float = 1.5
    text: TextField | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for another text, or a value that cannot be."""
        check_values(self, "sampling")


class InstructPix2PixPipeline:
    """Edits the source image by a text of the batch.

    Args:
        vae: frozen autoencoder.
        unet: denoiser with twice as many input channels as the latents have.
        text_encoder: CLIP text encoder.
        tokenizer: its tokenizer.
        scheduler: any diffusers scheduler.
        text: which text the UNet was trained on; `sampling.text` takes its place.
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
        self.trained_text: TextField = text
        self.sampling = sampling or EditSampling()

    @property
    def text(self) -> TextField:
        """Which text of the batch is followed."""
        return self.sampling.text or self.trained_text

    @property
    def resolution(self) -> int | None:
        """Of the images that the UNet was made for."""
        return usual_resolution(self.vae, self.unet)

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The source and the text."""
        return ("source", self.text)

    @property
    def response_source(self) -> ResponseSource:
        """None is needed under the instruction; the other texts are the data's."""
        return "none" if self.text == "instruction" else "given"

    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """Edit a batch."""
        texts = list(batch[self.text])
        images = self.edit(batch["source"], texts, generator)
        extras = {"cut": texts_cut(self.tokenizer, texts, self.text)}
        return EditOutput(images, [""] * len(texts) if self.text == "instruction" else texts, extras)

    @torch.no_grad()
    def edit(self, source: Tensor, texts: Sequence[str], generators: Generators) -> Tensor:
        """Images [B,3,H,W] in [-1,1] made from `source` [B,3,H,W] in [-1,1] by `texts`.

        Raises:
            ValueError: another number of texts or generators than images.
        """
        if isinstance(texts, str) or len(texts) != len(source):
            found = "one text" if isinstance(texts, str) else str(len(texts))
            raise ValueError(f"texts: expected a list with one for each of {len(source)} images, found {found}")
        generators = per_sample(generators, len(source))
        sampling, latents = self.sampling, encode_unscaled(self.vae, source)
        states, _ = encode_text(self.text_encoder, self.tokenizer, texts)
        null = encode_text(self.text_encoder, self.tokenizer, [""])[0].expand_as(states)
        return draw_guided(
            self.vae,
            self.unet,
            self.scheduler,
            source_branches(states, null, latents),
            instruct_pix2pix_guidance(sampling.guidance_scale, sampling.image_guidance_scale),
            source.shape[-2:],
            sampling.num_steps,
            generators,
            source.device,
        )


def open_editor(
    path: str, backbone: str | None = None, text: TextField = "instruction", sampling: EditSampling | None = None
) -> InstructPix2PixPipeline:
    """The editor of a folder in the published layout.

    Args:
        path: folder or hub id with `unet` and `scheduler`, and with the other parts where `backbone` names none.
        backbone: Stable Diffusion with `vae`, `text_encoder` and `tokenizer`.
        text: which text the UNet was trained on.
        sampling: how to sample.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
    """
    others = backbone or path
    vae, unet = load_vae(others), load_unet(path).to(memory_format=torch.channels_last)
    if unet.config.in_channels != (expected := 2 * vae.config.latent_channels):
        raise BackboneError(
            f"{path}: expected an editing UNet with {expected} input channels, found {unet.config.in_channels}; "
            "a text-to-image UNet draws with mmig.methods.latent_diffusion.pipeline.open_editor"
        )
    text_encoder, tokenizer = load_text_encoder(others), load_tokenizer(others)
    check_compatible(unet, text_encoder, vae, tokenizer)
    return InstructPix2PixPipeline(vae, unet, text_encoder, tokenizer, load_scheduler(path), text, sampling)


open_editor.backbone_settings = {  # type: ignore[attr-defined]  # for `python -m mmig.backbones fetch`
    "path": PIPELINE,
    "backbone": {part.name: part for part in (VAE, TEXT_ENCODER, TOKENIZER)},
}
