"""MMIG's inference: source image and instruction in, edited image out (eq 3, 5). The only inference path."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from datamodules.schema import Batch
from mmig.dem.conditioning import Conditioning
from mmig.dem.guidance import guided, instruct_pix2pix_guidance, text_guidance
from mmig.dem.latents import decode, encode, latent_shape
from mmig.dem.sampling import Generators, per_sample, sample
from mmig.editing import EditOutput, ResponseSource
from mmig.mllm.responses import ResponseStates, response_ids
from mmig.model import MMIG


@dataclass
class SamplingConfig:
    """How to sample.

    Attributes:
        num_steps: steps of the whole schedule.
        guidance_scale: weight of the text; 1 switches guidance off.
        image_guidance_scale: weight of the source image; only for "concat".
        strength: how far back in the noise an edit starts, in [0, 1]; only for "img2img".
        response: "given" takes the batch's response, "generated" lets the LLM write it from the instruction.
    """

    num_steps: int = 50
    guidance_scale: float = 7.5
    image_guidance_scale: float = 1.5
    strength: float = 0.8
    response: ResponseSource = "given"


class MMIGPipeline(DiffusionPipeline):
    """Edits images by instruction with MMIG's parts.

    Args:
        model: the four parts wired together.
    """

    def __init__(self, model: MMIG) -> None:
        super().__init__()
        parts = {
            "unet": model.unet,
            "vae": model.vae,
            "text_encoder": model.text_encoder,
            "tokenizer": model.tokenizer,
            "scheduler": model.scheduler,
        }
        self.register_modules(**parts)
        self.model = model

    @classmethod
    def from_model(cls, model: MMIG) -> "MMIGPipeline":
        """The pipeline of a model, sharing its weights."""
        return cls(model)

    @torch.no_grad()
    def __call__(
        self,
        source: Tensor,
        instructions: Sequence[str],
        responses: Sequence[str] | None = None,
        sampling: SamplingConfig | None = None,
        generator: Generators | None = None,
        use_mmsm: bool = True,
    ) -> EditOutput:
        """Edit images.

        Args:
            source: float [B,3,H,W] in [-1,1], sides multiples of the VAE's factor.
            instructions: what to do, one a sample.
            responses: descriptions of the goal images (z_d); None lets the LLM write them.
            sampling: steps, scales, strength.
            generator: one for all, or one a sample; None seeds with 0.
            use_mmsm: False leaves the mutual support modules out, for comparison.

        Returns:
            Images in [-1,1] and the responses that were used.
        """
        sampling = sampling or SamplingConfig()
        generators = per_sample(generator or torch.Generator().manual_seed(0), len(source))
        source = source.to(self.model.unet.device, self.model.vae.dtype)
        texts, states = self._respond(source, instructions, responses)
        latents = sample(
            self._denoiser(source, texts, states, sampling, use_mmsm),
            self.scheduler,
            latent_shape(self.vae, *source.shape[2:]),
            sampling.num_steps,
            generators,
            source_latents=encode(self.vae, source) if self.model.source_conditioning == "img2img" else None,
            strength=sampling.strength,
            device=source.device,
        )
        images = decode(self.vae, latents.to(source.dtype)).float().clamp(-1, 1)
        return EditOutput(images, texts)

    def _respond(
        self, source: Tensor, instructions: Sequence[str], responses: Sequence[str] | None
    ) -> tuple[list[str], ResponseStates]:
        """z_d and e0; the multimodal LLM sees the source if it has a vision tower."""
        mllm = self.model.mllm
        images = None if mllm.vision is None else source
        if responses is None:
            ids = mllm.generate(instructions, images)
            texts = mllm.decode(ids)
        else:
            ids = response_ids(mllm.tokenizer, responses, mllm.config.max_response_tokens)
            texts = list(responses)
        return texts, mllm.states_of_ids(instructions, ids, images)

    def _denoiser(
        self, source: Tensor, texts: list[str], states: ResponseStates, sampling: SamplingConfig, use_mmsm: bool
    ) -> Any:
        model, count = self.model, len(source)
        has_source = torch.ones(count, device=source.device)
        full = model.condition(texts, source, has_source)
        image = model.without_text(full)
        if model.source_conditioning == "concat":
            weights = instruct_pix2pix_guidance(sampling.guidance_scale, sampling.image_guidance_scale)
        else:
            weights = text_guidance(sampling.guidance_scale)
        no_image = None if full.image_latents is None else torch.zeros_like(full.image_latents)
        branches = {
            "full": full,
            "image": image,
            "null": replace(image, image_latents=no_image),
        }
        names = [name for name, weight in weights.items() if weight != 0]
        repeated = ResponseStates(*(value.repeat(len(names), *[1] * (value.ndim - 1)) for value in states))
        active = torch.tensor([use_mmsm and name == "full" for name in names], device=source.device)
        active = active.repeat_interleave(count)

        def predict(noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
            return model.denoise(noisy, timesteps, condition, repeated, active)[0]

        run = guided(predict, branches, weights)
        return lambda noisy, timesteps: run(noisy.to(source.dtype), timesteps).float()


class MMIGEditor:
    """MMIG's pipeline as evaluate.py and the callbacks see it: a batch in, edited images out.

    Args:
        pipeline: MMIG's pipeline.
        sampling: how to sample, and where the response comes from.
    """

    def __init__(self, pipeline: MMIGPipeline, sampling: SamplingConfig) -> None:
        self.pipeline = pipeline
        self.sampling = sampling
        self.response_source = sampling.response
        given = ("response",) if sampling.response == "given" else ()
        self.required_fields: tuple[str, ...] = ("source", "instruction", *given)

    def __call__(self, batch: Batch, generator: torch.Generator | Sequence[torch.Generator]) -> EditOutput:
        """Edit the sources of a batch."""
        responses = batch["response"] if self.response_source == "given" else None
        return self.pipeline(batch["source"], batch["instruction"], responses, self.sampling, generator)
