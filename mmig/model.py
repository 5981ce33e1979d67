"""MMIG's parts wired together: from a batch to every loss term by name.

Present: the frozen LLM's response states (e0), the mutual support module, the diffusion editing model with its noise
loss. Sampling with the same parts is `mmig/pipeline.py`.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.dem.conditioning import Conditioning, denoise
from mmig.dem.latents import encode, encode_unscaled, latent_shape
from mmig.dem.losses import noise_loss
from mmig.dem.process import NoiseProcess
from mmig.injection import Injection, inject
from mmig.mllm.responses import PROMPT_TEMPLATE, ResponseStates, prompt_ids, response_ids, response_states
from mmig.mmsm import MMSM
from mmig.rng import Draws

SourceConditioning = Literal["img2img", "concat"]
"""How the source image reaches the denoiser (eq 3): sampling starts from its noised latents, or they are appended to
the noisy latents on the channel axis (InstructPix2Pix)."""


@dataclass
class BackboneConfig:
    """Hub ids or folders of the pretrained parts.

    Attributes:
        diffusion: pipeline folder with vae, unet, text_encoder, tokenizer and scheduler.
        llm: causal language model and its tokenizer.
        unet: another UNet than the pipeline folder's.
        dtype: of the frozen weights.
        gradient_checkpointing: compute activations again in the backward pass to save memory.
    """

    diffusion: str
    llm: str
    unet: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False


@dataclass
class MMSMConfig:
    """Sizes and places of the mutual support modules.

    Attributes:
        dim: common width d of text and features.
        heads: attention heads.
        locations: module paths in the UNet; one module each.
    """

    dim: int = 768
    heads: int = 8
    locations: list[str] = field(default_factory=lambda: ["mid_block"])


@dataclass
class Parts:
    """The loaded parts of MMIG; `mmsm` holds one module a location (dots of the path written as dashes)."""

    unet: nn.Module
    vae: nn.Module
    text_encoder: nn.Module
    tokenizer: Any
    scheduler: Any
    llm: nn.Module
    llm_tokenizer: Any
    mmsm: nn.ModuleDict


def load_parts(backbones: BackboneConfig, mmsm: MMSMConfig) -> Parts:
    """Load the pretrained parts, frozen, and build fresh mutual support modules that fit them.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
        ValueError: a location that the UNet does not have.
    """
    from mmig.backbones import diffusion, llm

    options = {"dtype": getattr(torch, backbones.dtype), "gradient_checkpointing": backbones.gradient_checkpointing}
    root = backbones.diffusion
    # convolutions are faster in this memory format, on CPUs and on GPUs with tensor cores
    unet = diffusion.load_unet(backbones.unet or root, **options).to(memory_format=torch.channels_last)
    vae = diffusion.load_vae(root, **options).to(memory_format=torch.channels_last)
    text_encoder, tokenizer = diffusion.load_text_encoder(root, **options), diffusion.load_tokenizer(root)
    diffusion.check_compatible(unet, text_encoder, vae, tokenizer)
    model = llm.load_llm(backbones.llm, **options)
    modules = {
        path.replace(".", "-"): MMSM(model.config.hidden_size, feature_width(unet, path), mmsm.dim, mmsm.heads)
        for path in mmsm.locations
    }
    return Parts(
        unet,
        vae,
        text_encoder,
        tokenizer,
        diffusion.load_scheduler(root),
        model,
        llm.load_llm_tokenizer(backbones.llm),
        nn.ModuleDict(modules),
    )


def feature_width(unet: nn.Module, location: str) -> int:
    """Channels of the feature map that a block of a diffusers UNet puts out.

    Raises:
        ValueError: the location is neither mid_block nor a down or up block that exists.
    """
    widths = unet.config.block_out_channels
    known = {"mid_block": widths[-1]}
    known |= {f"down_blocks.{i}": width for i, width in enumerate(widths)}
    known |= {f"up_blocks.{i}": width for i, width in enumerate(reversed(widths))}
    if location not in known:
        raise ValueError(f"mmsm.locations: no block {location!r} in the UNet; it has {', '.join(known)}")
    return known[location]


class DenoisingProblem(NamedTuple):
    """Noisy latents x_t [B,c,h,w], timesteps [B], what is to be predicted [B,c,h,w], and the condition."""

    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    condition: Conditioning


class MMIG(nn.Module):
    """MMIG as one module.

    Args:
        parts: loaded parts.
        source_conditioning: how the denoiser sees the source image; "concat" needs a UNet with 8 input channels.
        prompt_template: what the LLM reads before the response.
        max_response_tokens: longest response, in tokens of the LLM.

    Raises:
        ValueError: the UNet's input channels do not fit `source_conditioning`.
    """

    def __init__(
        self,
        parts: Parts,
        source_conditioning: SourceConditioning,
        prompt_template: str = PROMPT_TEMPLATE,
        max_response_tokens: int = 128,
    ) -> None:
        super().__init__()
        self.unet, self.vae, self.text_encoder, self.llm = parts.unet, parts.vae, parts.text_encoder, parts.llm
        self.mmsm = parts.mmsm
        self.tokenizer, self.llm_tokenizer, self.scheduler = parts.tokenizer, parts.llm_tokenizer, parts.scheduler
        self.process = NoiseProcess.from_scheduler(parts.scheduler)
        self.source_conditioning = source_conditioning
        self.prompt_template = prompt_template
        self.max_response_tokens = max_response_tokens
        self._check_channels()

    def losses(self, batch: Batch, draws: Draws) -> tuple[dict[str, Tensor], Injection]:
        """Loss terms [B] of a batch by name, and what the mutual support modules computed.

        "sdm" is L_SDM (eq 14) of the target under the given response, "mmsm" is L_MMSM (eq 13).
        """
        problem = self.denoising_problem(batch, draws)
        states = self.response_states(batch["instruction"], batch["response"])
        prediction, injection = self.denoise(problem.noisy, problem.timesteps, problem.condition, states)
        return {"sdm": noise_loss(prediction, problem.target), "mmsm": injection.alignment_loss}, injection

    @torch.no_grad()
    def denoising_problem(self, batch: Batch, draws: Draws) -> DenoisingProblem:
        """What the denoiser gets and should answer for the targets of a batch, at the drawn noise and timesteps."""
        images = batch["target"]
        shape = latent_shape(self.vae, *images.shape[2:])
        clean = encode(self.vae, self._cast(images), self._cast(draws.normal("posterior", shape)))
        noise = self._cast(draws.normal("noise", shape))
        timesteps = self.timesteps(draws).to(clean.device)
        return DenoisingProblem(
            self.process.add_noise(clean, noise, timesteps),
            timesteps,
            self.process.target(clean, noise, timesteps),
            self.condition(batch["response"], batch["source"], batch["has_source"]),
        )

    def timesteps(self, draws: Draws) -> Tensor:
        """Timestep of each sample's noise loss, [B]."""
        return self.process.sample_timesteps(draws.uniform("timestep"))

    def denoise(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        condition: Conditioning,
        states: ResponseStates,
        active: Tensor | None = None,
    ) -> tuple[Tensor, Injection]:
        """Prediction of the denoiser [B,c,h,w] with the mutual support modules at their places.

        Args:
            noisy: x_t, [B,c,h,w].
            timesteps: [B].
            condition: text tokens and, for "concat", source latents.
            states: e0 with its mask.
            active: bool [B]; false for rows that pass without MMSM (unconditional ones).
        """
        modules = {name.replace("-", "."): module for name, module in self.mmsm.items()}
        with inject(self.unet, modules, states.states, states.mask, active) as injection:
            prediction = denoise(self.unet, noisy, timesteps, condition)
        return prediction, injection

    def condition(self, responses: Sequence[str], source: Tensor, has_source: Tensor) -> Conditioning:
        """What conditions the denoiser: CLIP's states of the response and, for "concat", the source latents."""
        latents = None
        if self.source_conditioning == "concat":
            latents = encode_unscaled(self.vae, self._cast(source)) * has_source.view(-1, 1, 1, 1)
        return Conditioning(tokens=self.encode_text(responses), image_latents=latents)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """CLIP text states [B,L,D], L being the tokenizer's length; longer texts are cut, their end token kept."""
        ids = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self.text_encoder(ids.to(self.unet.device)).last_hidden_state

    def response_states(self, instructions: Sequence[str], responses: Sequence[str]) -> ResponseStates:
        """States e0 of given responses (teacher forcing); with a gradient only where the LLM trains."""
        ids = response_ids(self.llm_tokenizer, responses, self.max_response_tokens)
        return self.states_of_ids(instructions, ids)

    def states_of_ids(self, instructions: Sequence[str], responses: Sequence[list[int]]) -> ResponseStates:
        """States e0 of responses that are ids already, as `generate_response_ids` gives them."""
        prompts = prompt_ids(self.llm_tokenizer, instructions, self.prompt_template)
        trained = any(parameter.requires_grad for parameter in self.llm.parameters())
        with contextlib.nullcontext() if trained else torch.no_grad():
            return response_states(self.llm, prompts, responses)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.unet.device, self.vae.dtype)

    def _check_channels(self) -> None:
        latent = self.vae.config.latent_channels
        expected = latent if self.source_conditioning == "img2img" else 2 * latent
        found = self.unet.config.in_channels
        if found != expected:
            raise ValueError(
                f"source_conditioning {self.source_conditioning!r} needs a UNet with {expected} input channels, "
                f"found {found}; a frozen UNet must have been trained with them (a widened one cannot see the source)"
            )
