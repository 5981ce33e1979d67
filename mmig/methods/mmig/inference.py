"""The parts of one edit, from responses to images: what `MMIGPipeline.edit` is made of (eq 1-4)."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmig.diffusion.attention import capture_attention
from mmig.diffusion.concepts import ConceptTokens
from mmig.diffusion.conditioning import Conditioning, as_dtype, denoise
from mmig.diffusion.guidance import guided, instruct_pix2pix_guidance, text_guidance
from mmig.diffusion.latents import decode, encode, latent_shape
from mmig.diffusion.sampling import Denoiser, sample
from mmig.editor import ConceptAttention
from mmig.language.sequences import ResponseStates, response_ids
from mmig.methods.mmig.attention_guidance import AttentionGuidance
from mmig.methods.mmig.editor import SamplingConfig
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.nouns import nouns
from mmig.methods.mmig.sampling_hooks import SamplingHooks, StepCallback, repeated

Concepts = Sequence[str] | Sequence[Sequence[str]]
"""Words of the responses: one list for all samples, or one a sample."""


@dataclass(frozen=True)
class Task:
    """What the denoiser is to make of a batch.

    Attributes:
        source: float [B,3,H,W] in [-1,1].
        texts: what the denoiser's text encoder reads (`MMIG.denoiser_texts`).
        states: e0 of the responses z_d.
        use_mmsm: whether the mutual support modules, or the connector in their place, work.
        concepts: words of the texts that attention guidance and maps are about; None: their nouns.
    """

    source: Tensor
    texts: list[str]
    states: ResponseStates
    use_mmsm: bool = True
    concepts: Concepts | None = None


def several(task: Task, count: int) -> Task:
    """The same for `count` images of each sample, side by side."""
    concepts = task.concepts
    return replace(
        task,
        source=task.source.repeat_interleave(count, dim=0),
        texts=repeated(task.texts, count),
        states=ResponseStates(*(value.repeat_interleave(count, dim=0) for value in task.states)),
        concepts=repeated(concepts, count) if is_nested(concepts) else concepts,
    )


def respond(
    model: MMIG, source: Tensor, instructions: Sequence[str], responses: Sequence[str] | None, sees: bool = True
) -> tuple[list[str], ResponseStates]:
    """z_d and e0 (eq 1, 2); the multimodal LLM sees the source if it has a vision tower, and if it is to.

    Raises:
        ValueError: no response and no LLM, or an instruction that is longer than what the LLM reads.
    """
    mllm = model.mllm
    if mllm is None:
        if responses is None:
            raise ValueError(
                "no response and no LLM to write one: give responses=, or load the pipeline with its llm and "
                "llm_tokenizer"
            )
        nothing = torch.zeros(len(source), 1, device=source.device)
        return list(responses), ResponseStates(nothing[..., None], nothing.bool())
    images = source if sees and mllm.vision is not None else None
    ids = None if responses is None else response_ids(mllm.tokenizer, responses, mllm.config.max_response_tokens)
    if responses is None:
        ids = mllm.generate(instructions, images)
        texts = mllm.decode(ids)
    else:
        texts = list(responses)
    return texts, mllm.states_of_ids(instructions, ids, images)


def render(
    model: MMIG,
    scheduler: Any,
    task: Task,
    sampling: SamplingConfig,
    generators: Sequence[torch.Generator],
    return_attention: bool = False,
    on_step: StepCallback | None = None,
) -> tuple[Tensor, ConceptAttention | None]:
    """Edited images in [-1,1] (eq 3), and the attention of the concepts where it is asked for.

    Args:
        model: the four parts.
        scheduler: any diffusers scheduler.
        task: what to do.
        sampling: steps, scales, strength, attention guidance.
        generators: one an image.
        return_attention: whether to keep the attention.
        on_step: called after each step.

    Raises:
        ValueError: a setting out of range, sides that the VAE cannot take, attention without text guidance, or nothing
            that the responses could reach the denoiser by.
    """
    check_hears(model)
    source, shape = task.source, latent_shape(model.vae, *task.source.shape[2:])
    branches, weights = conditions(model, task, sampling)
    looks = return_attention or sampling.attention_guidance
    if looks:
        check_shows_text(model, task.use_mmsm)
    tokens, words = locate(model, task) if looks else (None, [])
    size = (shape[1], shape[2])
    resolution = model.kind.attention_size(model.unet, size, model.objective.attention_resolution)
    guidance = None
    if sampling.attention_guidance:
        guidance = AttentionGuidance(
            model.unet,
            unguided_denoiser(model, task, branches["full"]),
            tokens.to(source.device),
            resolution,
            scale=sampling.attention_guidance,
        )
    with ExitStack() as stack:
        capture = None
        if return_attention:
            if weights["full"] == 0:
                raise ValueError("attention maps need the branch with text: guidance_scale must not be 0")
            capture = stack.enter_context(capture_attention(model.unet, resolution))
        hooks = SamplingHooks(guidance, on_step, capture, slice(len(source)))  # the branch with text comes first
        latents = sample(
            guided_denoiser(model, task, branches, weights),
            scheduler,
            shape,
            sampling.num_steps,
            generators,
            source_latents=encode(model.vae, source).float() if model.source_conditioning == "img2img" else None,
            strength=sampling.strength,
            device=source.device,
            before_step=hooks.before_step,
            on_step=hooks.on_step,
            schedule=model.kind.schedule(scheduler, sampling.num_steps, size),
        )
        latents = hooks.result(latents)
    images = decode(model.vae, latents.to(source.dtype)).float().clamp(-1, 1)
    return images, hooks.maps(tokens, words) if return_attention else None


def conditions(model: MMIG, task: Task, sampling: SamplingConfig) -> tuple[dict[str, Conditioning], dict[str, float]]:
    """What the denoiser is told on each branch of guidance, and the branches' weights."""
    full = model.condition(
        task.texts, task.source, torch.ones(len(task.source), dtype=torch.bool, device=task.source.device)
    )
    full = replace(full, extra=model.kind.guidance(model.unet, sampling.embedded_guidance, len(task.source)))
    image = model.without_text(full)
    if model.source_conditioning != "img2img":
        weights = instruct_pix2pix_guidance(sampling.guidance_scale, sampling.image_guidance_scale)
    else:
        weights = text_guidance(sampling.guidance_scale)
    no_image = None if full.image_latents is None else torch.zeros_like(full.image_latents)
    return {"full": full, "image": image, "null": replace(image, image_latents=no_image)}, weights


def check_hears(model: MMIG) -> None:
    """Raise ValueError where responses reach the denoiser neither as a text nor as the LLM's states."""
    if model.mllm is None and model.objective.denoiser_text == "none":
        raise ValueError(
            "no LLM, and a denoiser that reads no text (objective.denoiser_text none): responses would have no effect; "
            "load the pipeline with its llm and llm_tokenizer"
        )


def check_shows_text(model: MMIG, uses_connector: bool) -> None:
    """Raise ValueError where the denoiser reads no text, so that it attends to no concept."""
    if found := model.unread_text(uses_connector):
        raise ValueError(
            f"attention of concepts: expected a denoiser that reads a text, found {found}; leave attention guidance "
            "and maps out"
        )


def locate(model: MMIG, task: Task) -> tuple[ConceptTokens, list[list[str]]]:
    """Tokens of the concepts in the texts, and their words."""
    concepts = task.concepts
    if concepts is None:
        words = [nouns(text) for text in task.texts]
    elif is_nested(concepts):
        words = [list(row) for row in concepts]
    else:
        words = [list(concepts)] * len(task.texts)
    return model.reader.locate(task.texts, words), words


def is_nested(concepts: Concepts | None) -> bool:
    """Whether there is one list of concepts a sample."""
    return concepts is not None and not all(isinstance(entry, str) for entry in concepts)


def check_counts(source: Tensor, instructions: Sequence[str], responses: Sequence[str] | None, num_images: int) -> None:
    """Raise ValueError where there is not one instruction and one response a sample, one says nothing, or no image is
    wanted.
    """
    for name, values in (("instructions", instructions), ("responses", responses)):
        if values is not None and (isinstance(values, str) or len(values) != len(source)):
            found = "one text" if isinstance(values, str) else str(len(values))
            raise ValueError(f"{name}: expected a list with one for each of {len(source)} images, found {found}")
    if not all(text.strip() for text in instructions):
        raise ValueError("instruction: expected words that say what to do, found an empty text")
    if num_images < 1:
        raise ValueError(f"num_images_per_prompt: expected at least 1, found {num_images}")


def guided_denoiser(model: MMIG, task: Task, branches: dict[str, Conditioning], weights: dict[str, float]) -> Denoiser:
    """The denoiser on the weighted branches, the connector at work on "full" alone; it answers in float32."""
    names = [name for name, weight in weights.items() if weight != 0]
    repeated = ResponseStates(*(value.repeat(len(names), *[1] * (value.ndim - 1)) for value in task.states))
    active = torch.tensor([task.use_mmsm and name == "full" for name in names], device=task.source.device)
    active = active.repeat_interleave(len(task.source))

    def predict(noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
        return _denoise(model, noisy, timesteps, condition, repeated, active)

    run = guided(predict, branches, weights)
    return lambda noisy, timesteps: run(noisy, timesteps).float()


def unguided_denoiser(model: MMIG, task: Task, condition: Conditioning) -> Denoiser:
    """The denoiser under one condition, the connector at work."""
    active = torch.full((len(task.source),), task.use_mmsm, device=task.source.device)
    return lambda noisy, timesteps: _denoise(model, noisy, timesteps, condition, task.states, active)


def _denoise(
    model: MMIG, noisy: Tensor, timesteps: Tensor, condition: Conditioning, states: ResponseStates, active: Tensor
) -> Tensor:
    # the latents are rounded to the denoiser's precision alone: a trained one is float32 between bfloat16 parts
    if model.mllm is None:  # no e0 to mix in
        dtype = model.unet.dtype
        return denoise(model.unet, noisy.to(dtype), timesteps, as_dtype(condition, dtype))
    return model.denoise(noisy, timesteps, condition, states, active)[0]
