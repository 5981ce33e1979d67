"""The last pass of the released system: SDXL's refiner goes over an edited picture, under the result's caption."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from datamodules.schema import Batch
from mmig.backbones.hub import locate
from mmig.backbones.parts import BackboneError, Part
from mmig.editor import EditOutput

REFINER = Part("refiner", "", (("model_index.json",),), has_weights=False)
SUFFIX = ",high quality,well-formed,award-winning"
"""What the released code puts behind a caption."""


class Refiner:
    """An image-to-image pass of SDXL's kind over edited pictures; a `PostProcessor` of `Any2PixEditor`.

    Args:
        pipeline: diffusers' `StableDiffusionXLImg2ImgPipeline`, frozen.
        strength: how far the noise goes, in [0, 1]; 0 leaves pictures as they are. The released demo has 0.3.
        num_steps: of the whole schedule.
        guidance_scale: of the denoiser.
        suffix: behind every caption.
    """

    def __init__(
        self,
        pipeline: Any,
        strength: float = 0.3,
        num_steps: int = 25,
        guidance_scale: float = 5.0,
        suffix: str = SUFFIX,
    ) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"refiner.strength: expected a number in [0, 1], found {strength}")
        self.pipeline, self.strength, self.num_steps = pipeline, strength, num_steps
        self.guidance_scale, self.suffix = guidance_scale, suffix

    def to(self, device: torch.device | str) -> "Refiner":
        """On a device."""
        self.pipeline.to(device)
        return self

    @torch.no_grad()
    def __call__(self, output: EditOutput, batch: Batch, generators: Sequence[torch.Generator]) -> EditOutput:
        """The pictures, gone over."""
        if int(self.num_steps * self.strength) < 1:
            return output
        images = [
            self.pipeline(
                prompt=text + self.suffix,
                image=(image[None] + 1) / 2,
                strength=self.strength,
                num_inference_steps=self.num_steps,
                guidance_scale=self.guidance_scale,
                generator=generator,
                output_type="pt",
            ).images
            for text, image, generator in zip(output.texts, output.images, generators, strict=True)
        ]
        return replace(output, images=(2 * torch.cat(images).float() - 1).clamp(-1, 1))


def load_refiner(path: str, dtype: str = "float32", **settings: Any) -> Refiner:
    """A refiner from a folder of a pipeline, or a hub id that is complete in the cache.

    Args:
        path: such as stabilityai/stable-diffusion-xl-refiner-1.0.
        dtype: of the weights; the autoencoder of SDXL needs float32 or bfloat16.
        settings: of `Refiner`.

    Raises:
        BackboneError: a part is missing or broken, or the folder is another pipeline's.
    """
    from diffusers import StableDiffusionXLImg2ImgPipeline

    folder = locate(path, REFINER)
    try:
        pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(
            folder, torch_dtype=getattr(torch, dtype), local_files_only=True
        )
    except Exception as error:  # each library and file format raises its own kinds
        reason = " ".join(str(error).split())[:300]
        raise BackboneError(f"{folder}: cannot be read as SDXL's refiner: {reason}; fetch it again") from error
    pipeline.set_progress_bar_config(disable=True)
    return Refiner(pipeline, **settings)
