"""MMIG's inference: source image and instruction in, edited image and its caption out (eq 5). The only inference path.

`MMIGPipeline.edit` works on tensors, as evaluation does; calling the pipeline wraps it for people. How a run becomes a
folder that `MMIGPipeline.from_pretrained` opens is `export.py`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from mmig.checkpoints.renamed import renamed_module
from mmig.diffusion.sampling import Generators, per_sample
from mmig.editor import EditOutput
from mmig.evaluation.pictures import Pictures, as_batch, to_pil
from mmig.methods.mmig.connectors import Connectors
from mmig.methods.mmig.cut_texts import cut_texts_of, lost_text
from mmig.methods.mmig.editor import MMIGEditor, SamplingConfig
from mmig.methods.mmig.inference import Concepts, Task, check_counts, render, respond, several
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.overlap import concept_overlap
from mmig.methods.mmig.pipeline_output import MMIGPipelineOutput, check_options
from mmig.methods.mmig.sampling_hooks import StepCallback, generators_of_images, repeated, step_callback
from mmig.methods.mmig.wiring import Wiring, components_of

__all__ = ["MMIGEditor", "MMIGPipeline", "MMIGPipelineOutput", "SamplingConfig"]
logger = logging.getLogger(__name__)


class MMIGPipeline(DiffusionPipeline):
    """Edits images by instruction with MMIG's parts.

    Args:
        vae, text_encoder, tokenizer, scheduler: of a Stable Diffusion or a FLUX.
        unet, transformer: the denoiser, one of them: a Stable Diffusion's or a FLUX's.
        text_encoder_2, tokenizer_2: FLUX's T5; without them CLIP's states stand for T5's.
        connectors: mutual support modules, or the connector in their place, and adapters.
        llm, llm_tokenizer: the language model; without one, responses must be given and MMSM is left out.
        vision: CLIP's tower through which the LLM sees.
        captioner, captioner_processor: a BLIP-2, for captions of the new images.
        source_conditioning: "img2img", "concat" or "sequence", see `mmig.methods.mmig.model.SourceConditioning`.
        attention_resolution: (h, w) of the attention of concepts on the UNet's usual latents.
        max_text_chunks: chunks of 75 tokens that are read of a text; more are cut.
        sampling: fields of `SamplingConfig` that calls take where they name no others.
        resolution: longer side in pixels at which PIL images are edited; None: what the denoiser's config says.
        noise_levels, denoiser_text: as `mmig.methods.mmig.objective.ObjectiveConfig` has them.

    Raises:
        ValueError: parts that do not fit each other.
    """

    _optional_components = [  # noqa: RUF012
        *("unet", "transformer", "text_encoder_2", "tokenizer_2"),
        *("llm", "llm_tokenizer", "vision", "captioner", "captioner_processor"),
    ]
    _callback_tensor_inputs = ("latents",)

    # models are annotated as what diffusers can check without importing transformers' classes
    def __init__(
        self,
        vae: nn.Module,
        text_encoder: nn.Module,
        tokenizer: object,
        scheduler: object,
        connectors: Connectors,
        unet: nn.Module | None = None,
        transformer: nn.Module | None = None,
        text_encoder_2: nn.Module | None = None,
        tokenizer_2: object | None = None,
        llm: nn.Module | None = None,
        llm_tokenizer: object | None = None,
        vision: nn.Module | None = None,
        captioner: nn.Module | None = None,
        captioner_processor: object | None = None,
        source_conditioning: str = "img2img",
        attention_resolution: tuple | list = (16, 16),
        max_text_chunks: int = 1,
        noise_levels: str = "uniform",
        sampling: dict | None = None,
        resolution: int | None = None,
        denoiser_text: str = "response",
    ) -> None:
        super().__init__()
        optional = {"llm": llm, "llm_tokenizer": llm_tokenizer, "vision": vision, "captioner": captioner}
        self.register_modules(
            unet=unet,
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            scheduler=scheduler,
            connectors=connectors,
            captioner_processor=captioner_processor,
            **optional,
        )
        self.register_to_config(
            source_conditioning=source_conditioning,
            attention_resolution=list(attention_resolution),
            max_text_chunks=max_text_chunks,
            noise_levels=noise_levels,
            sampling=asdict(SamplingConfig(**(sampling or {}))),
            resolution=resolution,
            denoiser_text=denoiser_text,
        )
        self._wiring = Wiring()
        _ = self.model  # raises where parts do not fit

    @classmethod
    def from_model(
        cls, model: MMIG, sampling: SamplingConfig | None = None, resolution: int | None = None
    ) -> "MMIGPipeline":
        """The pipeline of a model, sharing its weights; other arguments as above."""
        return cls(
            **components_of(model),
            source_conditioning=model.source_conditioning,
            attention_resolution=model.objective.attention_resolution,
            max_text_chunks=model.objective.max_text_chunks,
            noise_levels=model.objective.noise_levels,
            sampling=asdict(sampling or SamplingConfig()),
            resolution=resolution,
            denoiser_text=model.objective.denoiser_text,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> "MMIGPipeline":
        """Open a folder that `save_pretrained` or `mmig.run.export` wrote, frozen; options as of diffusers.

        `llm=None` with `vision=None`, and `captioner=None`, leave parts out. Without `dtype` all is float32.
        """
        if not {"dtype", "torch_dtype"} & options.keys():  # transformers would take what was saved, diffusers float32
            options["dtype"] = torch.float32
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **options)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
        for part in (pipeline.model.unet, pipeline.vae):  # as training has them: faster, and the same to the last bit
            part.to(memory_format=torch.channels_last)
        return pipeline

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """As diffusers', with today's name of the connectors' module; called by `from_pretrained`."""
        loaded = super().load_config(pretrained_model_name_or_path, **options)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config["connectors"][0] = renamed_module(config["connectors"][0])
        return loaded

    @property
    def model(self) -> MMIG:
        """The parts as they are registered now, wired together; the same object until one of them is replaced."""
        return self._wiring.model(self.components, self.config)

    @torch.no_grad()
    def __call__(
        self,
        image: Pictures,
        instruction: str | Sequence[str],
        responses: str | Sequence[str] | None = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        strength: float | None = None,
        attention_guidance: float | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators | None = None,
        use_mmsm: bool | None = None,
        concepts: Concepts | None = None,
        return_attention: bool = False,
        resolution: int | None = None,
        output_type: Literal["pil", "pt"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> MMIGPipelineOutput | tuple:
        """Edit images.

        Args:
            image: PIL images of any mode and size, one or several; or float [B,3,H,W] in [-1,1]. One image serves all
                instructions.
            instruction: what to do, one an image; a single one serves all images.
            responses: descriptions of the goal images (z_d); None lets the LLM write them.
            num_inference_steps, guidance_scale, image_guidance_scale, strength, attention_guidance, use_mmsm: see
                `SamplingConfig`; None takes the pipeline's own values (`config.sampling`).
            num_images_per_prompt: images a sample.
            generator: one for all; or one a sample, from which its images are seeded; or one an image. A number is
                a seed; None is 0.
            concepts: words of the response for attention guidance and maps; None takes its nouns.
            return_attention: also return the concepts' attention maps.
            resolution: longer side in pixels at which PIL images are edited; the results have the images' own sizes.
            output_type: "pil"; or "pt" for float32 [B,3,H,W] in [-1,1] at the editing size.
            return_dict: False returns (images, descriptions, captions).
            callback_on_step_end: (pipeline, index, timestep, {"latents": ...}) -> dict or None, called after each
                step; latents that it returns take the place of the step's.
            callback_on_step_end_tensor_inputs: what the callback gets; "latents" is all there is.

        Raises:
            ValueError: arguments that do not fit; the message names them.
        """
        check_options(output_type, callback_on_step_end_tensor_inputs)
        images, sizes = as_batch(image, resolution or self.editing_resolution)
        instructions = [instruction] * len(images) if isinstance(instruction, str) else list(instruction)
        if len(images) == 1 and len(instructions) > 1:
            images, sizes = images.expand(len(instructions), -1, -1, -1), sizes and sizes * len(instructions)
        with step_callback(self, callback_on_step_end) as on_step:
            output = self.edit(
                images,
                instructions,
                [responses] * len(instructions) if isinstance(responses, str) else responses,
                self._sampling(
                    num_steps=num_inference_steps,
                    guidance_scale=guidance_scale,
                    image_guidance_scale=image_guidance_scale,
                    strength=strength,
                    attention_guidance=attention_guidance,
                    use_mmsm=use_mmsm,
                ),
                generator,
                num_images=num_images_per_prompt,
                concepts=concepts,
                return_attention=return_attention,
                on_step=on_step,
            )
        result = self._shown(output, output_type == "pil", sizes and repeated(sizes, num_images_per_prompt))
        return result if return_dict else (result.images, result.descriptions, result.captions)

    def _shown(self, output: EditOutput, as_pil: bool, sizes: list[tuple[int, int]] | None) -> MMIGPipelineOutput:
        """The output for people, PIL images in these sizes where there are any; warns of lost text."""
        for line in lost_text(self.model, output):
            logger.warning(line)
        images = to_pil(output.images, sizes) if as_pil else output.images
        extras = output.extras
        return MMIGPipelineOutput(images, output.texts, extras.get("captions"), extras.get("attention"))

    def _sampling(self, **given: Any) -> SamplingConfig:
        """The pipeline's own settings with those that are not None in their place."""
        own = SamplingConfig(**self.config.sampling)
        return replace(own, **{name: value for name, value in given.items() if value is not None})

    @torch.no_grad()
    def edit(
        self,
        source: Tensor,
        instructions: Sequence[str],
        responses: Sequence[str] | None = None,
        sampling: SamplingConfig | None = None,
        generator: Generators | None = None,
        *,
        num_images: int = 1,
        concepts: Concepts | None = None,
        return_attention: bool = False,
        on_step: StepCallback | None = None,
    ) -> EditOutput:
        """Edit images given as tensors.

        Args:
            source: float [B,3,H,W] in [-1,1], sides multiples of the VAE's factor.
            instructions: what to do, one a sample.
            responses: descriptions of the goal images (z_d); None lets the LLM write them.
            sampling: steps, scales, strength. num_images: images a sample; those of a sample stand side by side.
            generator, concepts, return_attention: as in a call of the pipeline. on_step: called after each step.

        Returns:
            Images in [-1,1] and the responses that were used. `extras` has "cut", "captions" (d_new) where there is a
            captioner, "attention" (`ConceptAttention`) and "concept_overlap" where it was asked for.

        Raises:
            ValueError: arguments that do not fit.
        """
        check_counts(source, instructions, responses, num_images)
        model, sampling, count = self.model, sampling or SamplingConfig(), len(source)
        generators = per_sample(generators_of_images(generator, count, num_images), count * num_images)
        source = source.to(model.unet.device, model.vae.dtype)
        texts, states = respond(model, source, instructions, responses, sampling.sees)
        read = model.denoiser_texts(instructions, texts)
        extras: dict[str, Any] = {"cut": repeated(cut_texts_of(model, read, texts, responses is not None), num_images)}
        task = Task(source, read, states, sampling.use_mmsm, concepts)
        if num_images > 1:
            task, texts = several(task, num_images), repeated(texts, num_images)
        images, attention = render(model, self.scheduler, task, sampling, generators, return_attention, on_step)
        extras |= {} if attention is None else {"attention": attention}
        if sampling.measure_overlap:
            extras["concept_overlap"] = concept_overlap(model, task, sampling, images, generators)
        if model.captioner is not None:
            extras["captions"] = model.captioner.caption(images)
        return EditOutput(images, texts, extras)

    @property
    def editing_resolution(self) -> int:
        """Longer side in pixels at which PIL images are edited unless a call says otherwise."""
        model = self.model
        return self.config.resolution or model.kind.usual_resolution(model.unet, model.vae)
