"""MMIG's loss terms (eq 22), each one method: how much a sample counts in it, and its value.

What they share (the draws, the tokens, the forwards) is made when it is first asked for, and once. Forward A is the
denoiser under the response, B under the mixed embedding, C at a noisier timestep, without gradient.
"""

import contextlib
from collections.abc import Collection
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.diffusion.attention import AttentionCapture, capture_attention
from mmig.diffusion.concepts import ConceptTokens
from mmig.diffusion.injection import Injection
from mmig.diffusion.losses import mask_to_latents, masked_noise_loss, noise_loss
from mmig.diffusion.problem import DenoisingProblem, denoising_problem
from mmig.language.sequences import EncodedResponses
from mmig.methods.mmig.attention_losses import (
    ConceptMaps,
    binarize,
    concept_maps,
    retention_loss,
    segregation_loss,
    text_attention,
)
from mmig.methods.mmig.image_path import TimestepDraw, caption_loss
from mmig.methods.mmig.layered import amortised
from mmig.methods.mmig.llm.multimodal import MultimodalOutput
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

if TYPE_CHECKING:
    from mmig.methods.mmig.model import MMIG


class ForwardA(NamedTuple):
    """The denoiser under the responses.

    Attributes:
        prediction: [B,c,h,w].
        injection: what the mutual support modules computed.
        attention: of every token, [B,T,h,w]; None where no loss looks at it.
    """

    prediction: Tensor
    injection: Injection
    attention: Tensor | None


class Losses:
    """The loss terms of a batch.

    Args:
        model: whose losses.
        batch: of the schema.
        draws: of its samples.
        terms: which of `objective.TERMS` are asked for.
    """

    def __init__(self, model: "MMIG", batch: Batch, draws: Draws, terms: Collection[str]) -> None:
        self.model, self.batch, self.draws, self.names = model, batch, draws, tuple(terms)

    def terms(self) -> dict[str, LossTerm]:
        """The asked terms by name; nothing is computed yet."""
        of = {
            "sdm": self.sdm,
            "as": self.segregation,
            "ar": self.retention,
            "fg": self.foreground,
            "bg": self.background,
            "mmt": self.mmt,
            "blip2": self.blip2,
            "mmsm": self.mmsm,
        }
        return {name: of[name]() for name in self.names}

    # The terms ---------------------------------------------------------------------------------------------------

    def sdm(self) -> LossTerm:
        """L_SDM (14): the noise of samples with a target, but those whose timestep was drawn for the captioner."""
        return LossTerm(self.has_target * self.uniform, lambda: noise_loss(self.a.prediction, self.problem.target))

    def mmsm(self) -> LossTerm:
        """L_MMSM (13): samples with a response that was not dropped."""
        if "sdm" in self.names:
            return LossTerm(self.described, lambda: self.a.injection.alignment_loss)
        # eq 13 reaches half of MMSM; DDP waits for the rest
        return LossTerm(
            self.described,
            lambda: self.a.injection.alignment_loss + 0 * noise_loss(self.a.prediction, self.problem.target),
        )

    def segregation(self) -> LossTerm:
        """L_AS (19): responses with two concepts."""
        return LossTerm(self.described * (self.num_concepts >= 2), lambda: segregation_loss(*self.maps))

    def retention(self) -> LossTerm:
        """L_AR (20): responses with a concept; near the noisiest timestep there is no earlier step to compare with."""
        earlier = self.model.process.has_noisier(self.drawn.timesteps, self.model.objective.step_gap)
        counts = self.described * (self.num_concepts >= 1) * earlier.to(self.described.device)
        return LossTerm(counts, lambda: retention_loss(self.maps.maps, self.regions, self.maps.valid))

    def foreground(self) -> LossTerm:
        """L_fg (17): inside M_t."""
        return LossTerm(
            self.layered * self.batch["has_target_mask"],
            lambda: self._masked(mask_to_latents(self.batch["target_mask"], self.latent_size)),
        )

    def background(self) -> LossTerm:
        """L_bg (18): outside M_r, for which M_t stands where there is none."""
        has_mask = self.batch["has_target_mask"] | self.batch["has_reference_mask"]
        return LossTerm(
            self.layered * has_mask, lambda: self._masked(1 - mask_to_latents(self.reference, self.latent_size))
        )

    def mmt(self) -> LossTerm:
        """L_MMT (7, 8): tokens of the responses to instructions, dropped from the denoiser or not."""
        present = self.batch["has_instruction"] & self.batch["has_response"]
        tokens = torch.tensor([float(len(row)) for row in self.encoded.targets])
        return LossTerm(tokens.to(present.device) * present, lambda: self.answer.losses)

    def blip2(self) -> LossTerm:
        """L_BLIP2 (22): tokens of the captions; the few images at early timesteps weigh so as to stand for all."""
        captions = self.model.needed_captioner().encode(self.model.captions(self.batch))
        tokens = torch.tensor([float(len(caption)) for caption in captions], device=self.has_target.device)
        return LossTerm(tokens * self.has_target * self.has_text, lambda: self._caption_losses(captions))

    # What counts -------------------------------------------------------------------------------------------------

    @cached_property
    def drawn(self) -> TimestepDraw:
        """Timesteps, and what they mean."""
        return self.model.draw_timesteps(self.draws)

    @cached_property
    def has_target(self) -> Tensor:
        """1 for samples with a target, float32 [B]."""
        return self.batch["has_target"].float()

    @cached_property
    def uniform(self) -> Tensor:
        """Samples whose timestep is a uniform draw, bool [B]."""
        return self.drawn.in_noise_loss.to(self.has_target.device)

    @cached_property
    def dropped(self) -> tuple[Tensor, Tensor]:
        """Which samples lose the text and which the source image, bool [B] each."""
        text, image = self.model.drops(self.draws)
        return text.to(self.has_target.device), image.to(self.has_target.device)

    @property
    def has_text(self) -> Tensor:
        """Samples whose denoiser sees the text and the connector's work, bool [B]."""
        return ~self.dropped[0]

    @property
    def described(self) -> Tensor:
        """1 for samples with a target and a response that was not dropped, float32 [B]."""
        return self.has_target * self.batch["has_response"] * self.has_text

    @property
    def layered(self) -> Tensor:
        """1 for samples with a phrase for the object and for its background, float32 [B]."""
        return self.described * self.uniform * self.batch["has_object_phrase"] * self.batch["has_background_phrase"]

    @cached_property
    def texts(self) -> list[str]:
        """What the denoiser's text encoder reads, "" where dropped."""
        read = self.model.denoiser_texts(self.batch["instruction"], self.batch["response"])
        return ["" if dropped else text for dropped, text in zip(self.dropped[0].tolist(), read, strict=True)]

    @cached_property
    def concepts(self) -> ConceptTokens:
        """Where the concepts are among the tokens of these texts."""
        return self.model.reader.locate(self.texts, self.batch["concepts"]).to(self.has_target.device)

    @property
    def num_concepts(self) -> Tensor:
        """Concepts found in each text, int64 [B]."""
        return self.concepts.valid.sum(dim=1)

    @cached_property
    def encoded(self) -> EncodedResponses:
        """The responses as the LLM's ids."""
        return self.model.mllm.encode(self.batch["response"])

    # Forwards ----------------------------------------------------------------------------------------------------

    @cached_property
    def answer(self) -> MultimodalOutput:
        """One forward of the LLM with the given responses (teacher forcing): L_MMT, where it is asked for, and e0."""
        text_only = self.draws.bernoulli("text_only", self.model.objective.text_only)
        return self.model.answer(self.batch, self.encoded if "mmt" in self.names else None, text_only)

    @cached_property
    def problem(self) -> DenoisingProblem:
        """What the denoiser gets and should answer."""
        clean, condition = self.model.conditioned_latents(self.batch, self.draws, *self.dropped)
        noise = self.draws.normal("noise", clean.shape[1:])
        return denoising_problem(self.model.process, clean, noise, self.drawn.timesteps, condition)

    @cached_property
    def a(self) -> ForwardA:
        """Forward A."""
        problem = self.problem
        with self._captured() if {"as", "ar"} & {*self.names} else contextlib.nullcontext() as capture:
            prediction, injection = self._denoise(problem)
        return ForwardA(prediction, injection, None if capture is None else capture.average())

    @cached_property
    def maps(self) -> ConceptMaps:
        """Attention maps of the concepts in forward A."""
        return concept_maps(text_attention(self.a.attention, self.concepts), self.concepts)

    @cached_property
    @torch.no_grad()
    def regions(self) -> Tensor:
        """B_t of eq 20, from forward C on the same noise."""
        process, objective, problem = self.model.process, self.model.objective, self.problem
        timesteps = process.noisier(problem.timesteps, objective.step_gap)
        with self._captured() as before:
            self._denoise(denoising_problem(process, problem.clean, problem.noise, timesteps, problem.condition))
        attention = text_attention(before.average(), self.concepts)
        return binarize(concept_maps(attention, self.concepts).maps, objective.region_threshold)

    @cached_property
    def b(self) -> Tensor:
        """Prediction of forward B, under e_opt (16)."""
        with torch.no_grad():
            phrases = self.batch["object_phrase"], self.batch["background_phrase"]
            tokens = amortised(self.model.encode_text, *phrases).mixed(self.model.objective.alpha)
        condition = replace(self.problem.condition, tokens=tokens, mask=None)
        # e_opt stands where the text stands, and there is no other place for a connector that replaces it
        active = torch.zeros_like(self.has_text) if self.model.replaces_text else None
        return self._denoise(self.problem._replace(condition=condition), active)[0]

    @property
    def reference(self) -> Tensor:
        """M_r, or M_t where there is none, [B,1,H,W]."""
        has_reference = self.batch["has_reference_mask"].view(-1, 1, 1, 1)
        return torch.where(has_reference, self.batch["reference_mask"], self.batch["target_mask"])

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of the latents."""
        return self.problem.noisy.shape[2], self.problem.noisy.shape[3]

    def _masked(self, mask: Tensor) -> Tensor:
        return masked_noise_loss(self.b, self.problem.target, mask, norm=self.model.objective.layered_norm)

    def _caption_losses(self, captions: list[list[int]]) -> Tensor:
        return caption_loss(
            self.model.needed_captioner(),
            self.model.vae,
            self.model.process,
            self.a.prediction,
            self.problem.noisy,
            self.problem.timesteps,
            captions,
            self.drawn.caption_weight.to(self.has_target.device) * self.has_target * self.has_text,
            self.model.objective.image_path,
        ).values

    def _denoise(self, problem: DenoisingProblem, active: Tensor | None = None) -> tuple[Tensor, Injection]:
        states, active = self.answer.states, self.has_text if active is None else active
        return self.model.denoise(problem.noisy, problem.timesteps, problem.condition, states, active)

    def _captured(self) -> contextlib.AbstractContextManager[AttentionCapture]:
        return capture_attention(self.model.unet, self.model.objective.attention_resolution)
