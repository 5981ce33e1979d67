"""Inference of InstructPix2Pix: three branches, two guidance scales."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.diffusion import (
    check_compatible,
    load_both_text_encoders,
    load_scheduler,
    load_text_encoder,
    load_tokenizer,
    load_unet,
    load_vae,
)
from mmig.backbones.parts import (
    SDXL_TEXT_ENCODER,
    SDXL_TOKENIZER,
    TEXT_ENCODER,
    TOKENIZER,
    UNET_PIPELINE,
    VAE,
    BackboneError,
)
from mmig.base.values import check_values
from mmig.diffusion.drawing import draw_guided
from mmig.diffusion.guidance import instruct_pix2pix_guidance, source_branches
from mmig.diffusion.latents import encode_unscaled, usual_resolution
from mmig.diffusion.reading import clip_reader
from mmig.diffusion.sampling import Generators, per_sample
from mmig.diffusion.sdxl import TextCondition, conditioning, takes_sizes
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
        text_encoder_2, tokenizer_2: the second ones of SDXL's form.
        zero_null: no text is a condition of zeros in place of the empty text's, as diffusers' SDXL has it.
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
        text_encoder_2: nn.Module | None = None,
        tokenizer_2: Any = None,
        zero_null: bool = False,
    ) -> None:
        self.vae, self.unet, self.text_encoder, self.tokenizer = vae, unet, text_encoder, tokenizer
        self.text_encoder_2, self.tokenizer_2, self.zero_null = text_encoder_2, tokenizer_2, zero_null
        self.reader = clip_reader(self)
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
        extras = {"cut": self.reader.cut(texts, self.text)}
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
        sampling, latents, size = self.sampling, encode_unscaled(self.vae, source), (source.shape[2], source.shape[3])
        text = self._read(texts)
        full, null = (conditioning(self.unet, given, size) for given in (text, self._no_text(text)))
        return draw_guided(
            self.vae,
            self.unet,
            self.scheduler,
            source_branches(full, null, latents),
            instruct_pix2pix_guidance(sampling.guidance_scale, sampling.image_guidance_scale),
            size,
            sampling.num_steps,
            generators,
            source.device,
        )

    def _read(self, texts: Sequence[str]) -> TextCondition:
        states = self.reader.read(texts)
        return TextCondition(states.tokens, states.pooled)

    def _no_text(self, like: TextCondition) -> TextCondition:
        """The condition of no text, as often as `like` has texts."""
        if self.zero_null:
            return TextCondition(*(None if value is None else torch.zeros_like(value) for value in like))
        null = self._read([""])
        pooled = null.pooled if like.pooled is None else null.pooled.expand_as(like.pooled)
        return TextCondition(null.tokens.expand_as(like.tokens), pooled)


def open_editor(
    path: str,
    backbone: str | None = None,
    text: TextField = "instruction",
    sampling: EditSampling | None = None,
    zero_null: bool | None = None,
) -> InstructPix2PixPipeline:
    """The editor of a folder in the published layout, of Stable Diffusion or of SDXL.

    Args:
        path: folder or hub id with `unet` and `scheduler`, and with the other parts where `backbone` names none;
            released are timbrooks/instruct-pix2pix and, in SDXL's form, diffusers/sdxl-instructpix2pix-768.
        backbone: Stable Diffusion with `vae`, `text_encoder` and `tokenizer`, or SDXL with both of each.
        text: which text the UNet was trained on.
        sampling: how to sample.
        zero_null: no text is zeros, see the pipeline; None: of SDXL's form, as released. Our runs read the empty text.

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
    if takes_sizes(unet):
        encoders, tokenizers = load_both_text_encoders(others)
    else:
        encoders, tokenizers = (load_text_encoder(others), None), (load_tokenizer(others), None)
    zero_null = takes_sizes(unet) if zero_null is None else zero_null
    check_compatible(unet, encoders[0], vae, tokenizers[0], encoders[1])
    scheduler = load_scheduler(path)
    return InstructPix2PixPipeline(
        vae, unet, encoders[0], tokenizers[0], scheduler, text, sampling, encoders[1], tokenizers[1], zero_null
    )


TEXT_PARTS = (TEXT_ENCODER, TOKENIZER, SDXL_TEXT_ENCODER, SDXL_TOKENIZER)
open_editor.backbone_settings = {  # type: ignore[attr-defined]  # for `python -m mmig.backbones fetch`
    "path": UNET_PIPELINE,
    "backbone": {part.name: part for part in (VAE, *TEXT_PARTS)},
}
