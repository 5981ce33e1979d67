"""MM-Inst's edited pictures, the targets of the last phase, as a mapper (Li et al. 2023, sections 3.4.3 and 9.1.3)."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from datamodules.schema import Outcome, Sample, image_to_tensor, without_placeholders
from mmig.backbones.diffusion import (
    load_both_text_encoders,
    load_scheduler,
    load_text_encoder,
    load_tokenizer,
    load_unet,
    load_vae,
)
from mmig.backbones.fingerprint import identity
from mmig.backbones.named import BackboneSettings
from mmig.backbones.parts import PIPELINE
from mmig.base.batches import process_device
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.sdxl import conditioning, encode_by_two, takes_sizes
from mmig.diffusion.text import encode_text
from mmig.evaluation.pictures import to_pil
from mmig.methods.instruct_any2pix.inverting import InversionError, Inverter

_RULE = "1"  # counts up when the same samples come to give other pictures


class PseudoTargets:
    """Draws the edited picture of each instruction: the source inverted under its caption, drawn under the result's.

    Only scenes can be edited so, no details, as the paper says. The source is cut to a square and scaled first.

    Args:
        pipeline: folder or hub id of a text-to-image pipeline, Stable Diffusion's or SDXL's.
        resolution: side of both pictures.
        num_steps: of inversion, and of drawing.
        guidance_scale: of drawing.
        device: auto, cpu, cuda or cuda:1.
    """

    backbone_settings: ClassVar[BackboneSettings] = {"pipeline": PIPELINE}

    def __init__(
        self,
        pipeline: str,
        resolution: int = 1024,
        num_steps: int = 50,
        guidance_scale: float = 7.5,
        device: str = "auto",
    ) -> None:
        self.pipeline, self.resolution, self.num_steps = pipeline, resolution, num_steps
        self.guidance_scale, self.device = guidance_scale, device

    def facts(self) -> Mapping[str, str]:
        """What pictures depend on."""
        names = ("resolution", "num_steps", "guidance_scale")
        known = identity(self.pipeline, PIPELINE.values(), "pipeline")
        return {"pipeline": known, "rule": _RULE, **{name: str(getattr(self, name)) for name in names}}

    def __call__(self, samples: Sequence[Sample]) -> Sequence[Outcome]:
        """The samples with `target`, and their source in its size."""
        return [self._drawn(sample) for sample in samples]

    @torch.no_grad()
    def _drawn(self, sample: Sample) -> Outcome:
        if "source" not in sample or not sample.get("target_caption", "").strip():
            return Outcome(reason="no_pair", detail="no source picture, or no caption of the result")
        source = squared(sample["source"], self.resolution)
        texts = [sample.get("source_caption", ""), sample["target_caption"], ""]
        before, after, null = (self._condition([without_placeholders(text)]) for text in texts)
        try:
            noisy = self._inverter.invert(image_to_tensor(source)[None], before, [sample["key"]])
        except InversionError as error:
            return Outcome(reason="inversion", detail=str(error))
        drawn = self._inverter.draw(noisy, {"full": after, "null": null}, self.guidance_scale)
        return Outcome([sample | {"source": source, "target": to_pil(drawn)[0]}])

    def _condition(self, texts: list[str]) -> Conditioning:
        unet, (encoders, tokenizers) = self._inverter.unet, self._text
        if not takes_sizes(unet):
            return Conditioning(encode_text(encoders[0], tokenizers[0], texts)[0])
        size = (self.resolution, self.resolution)
        return conditioning(unet, encode_by_two(encoders, tokenizers, texts), size)

    @functools.cached_property
    def _inverter(self) -> Inverter:
        device = process_device(self.device)
        vae, unet = load_vae(self.pipeline).to(device), load_unet(self.pipeline).to(device)
        return Inverter(vae, unet, load_scheduler(self.pipeline), self.num_steps)

    @functools.cached_property
    def _text(self) -> tuple[Sequence[Any], Sequence[Any]]:
        """Text encoders and tokenizers: one of each, or SDXL's two."""
        if takes_sizes(self._inverter.unet):
            encoders, tokenizers = load_both_text_encoders(self.pipeline)
        else:
            encoders, tokenizers = (load_text_encoder(self.pipeline),), (load_tokenizer(self.pipeline),)
        device = self._inverter.unet.device
        return [encoder.to(device) for encoder in encoders], tokenizers


def squared(picture: Any, side: int) -> Image.Image:
    """The square in the middle of a picture, RGB, scaled to a side."""
    width, height = picture.size
    least = min(width, height)
    left, top = (width - least) // 2, (height - least) // 2
    cut = picture.convert("RGB").crop((left, top, left + least, top + least))
    return cut if least == side else cut.resize((side, side), Image.Resampling.LANCZOS)
