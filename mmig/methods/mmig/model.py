"""MMIG's parts wired together: from a batch to every loss term by name (eq 1-22).

Sampling with the same parts is `mmig/methods/mmig/pipeline.py`; which terms count and what trains,
`mmig/methods/mmig/stages/`.
"""

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.cache.frozen import FrozenFeatures
from mmig.diffusion.attention import AttentionCapture, capture_attention
from mmig.diffusion.concepts import ConceptTokens, encode_chunks, locate_concepts
from mmig.diffusion.conditioning import Conditioning, as_dtype, condition_drops, denoise, encode_text
from mmig.diffusion.injection import Injection, inject
from mmig.diffusion.latents import encode_unscaled, from_posterior
from mmig.diffusion.losses import mask_to_latents, masked_noise_loss, noise_loss
from mmig.diffusion.problem import DenoisingProblem, Losses, SourceConditioning
from mmig.diffusion.process import NoiseProcess
from mmig.language.responses import ResponseStates
from mmig.methods.mmig.attention_losses import binarize, concept_maps, retention_loss, segregation_loss
from mmig.methods.mmig.image_path import TimestepDraw, caption_loss, draw_timesteps
from mmig.methods.mmig.layered import amortised
from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.llm.multimodal import MultimodalLLM, MultimodalOutput
from mmig.methods.mmig.objective import TERMS, ObjectiveConfig
from mmig.methods.mmig.parts import Parts
from mmig.training.rng import Draws


class MMIG(nn.Module):
    """MMIG as one module.

    Args:
        parts: loaded parts.
        source_conditioning: how the denoiser sees the source image; "concat" needs a UNet with 8 input channels.
        multimodal: sizes and readings of the multimodal LLM; or the one that the parts' LLM belongs to already.
        objective: readings of the loss terms.

    Raises:
        ValueError: the UNet's input channels do not fit `source_conditioning`.
    """

    def __init__(
        self,
        parts: Parts,
        source_conditioning: SourceConditioning,
        multimodal: MultimodalConfig | MultimodalLLM | None = None,
        objective: ObjectiveConfig | None = None,
    ) -> None:
        super().__init__()
        self.unet, self.vae, self.text_encoder, self.mmsm = parts.unet, parts.vae, parts.text_encoder, parts.mmsm
        if not isinstance(multimodal, MultimodalLLM) and parts.llm is not None:  # a pipeline may do without an LLM
            multimodal = MultimodalLLM(parts.llm, parts.llm_tokenizer, parts.vision, multimodal)
        self.mllm = multimodal
        self.captioner = parts.captioner
        self.tokenizer, self.scheduler = parts.tokenizer, parts.scheduler
        self.process = NoiseProcess.from_scheduler(parts.scheduler)
        self.source_conditioning = source_conditioning
        self.objective = objective or ObjectiveConfig()
        self.features = FrozenFeatures(self, self.objective.max_text_chunks)
        self._check_channels()

    # Losses ------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, draws: Draws, terms: Collection[str] = TERMS) -> Losses:
        """The asked loss terms of a batch.

        One forward of the LLM with the given response (teacher forcing) gives L_MMT and e0; one of the denoiser under
        the response L_SDM, L_MMSM, the attention maps and the predicted image (forward A); one under the mixed
        embedding L_fg and L_bg (B); one at a noisier timestep, without gradient, the regions of L_AR (C).
        """
        answer = self.answer(batch, "mmt" in terms, draws.bernoulli("text_only", self.objective.text_only))
        problem = self.denoising_problem(batch, draws)
        with self._captured("as" in terms or "ar" in terms) as capture:
            prediction, injection = self._answer_problem(problem, answer.states)
        values = {
            "sdm": noise_loss(prediction, problem.target),
            "mmsm": injection.alignment_loss,
            "mmt": answer.losses,
        }
        if "sdm" not in terms and "mmsm" in terms:  # eq 13 reaches half of MMSM; DDP waits for the rest
            values["mmsm"] = values["mmsm"] + 0 * values["sdm"]
        concepts = None
        if capture is not None:
            concepts = self._concepts(problem.texts, batch).to(problem.noisy.device)
            values |= self._attention_losses(problem, capture, concepts, answer.states, "ar" in terms)
        if "fg" in terms or "bg" in terms:
            values |= self._layered_losses(batch, problem, answer.states)
        if "blip2" in terms:
            values["blip2"] = self._caption_losses(batch, problem, prediction)
        return Losses({name: values[name] for name in terms}, injection, concepts)

    def loss_counts(self, batch: Batch, draws: Draws, terms: Collection[str] = TERMS) -> dict[str, Tensor]:
        """How much each sample counts in each asked term, float32 [B]: 0 where something is missing or was dropped."""
        has_text = ~self._drops(draws)[0].to(batch["has_target"].device)
        target = batch["has_target"].float()
        described = target * batch["has_response"] * has_text
        drawn = self._draw_timesteps(draws)
        uniform = drawn.in_noise_loss.to(target.device)
        counts = {"sdm": target * uniform, "mmsm": described}
        if "fg" in terms or "bg" in terms:
            layered = described * uniform * batch["has_object_phrase"] * batch["has_background_phrase"]
            counts["fg"] = layered * batch["has_target_mask"]
            counts["bg"] = layered * (batch["has_target_mask"] | batch["has_reference_mask"])
        if "mmt" in terms:
            tokens = self.mllm.token_counts(batch["response"]).to(target.device)
            counts["mmt"] = tokens * batch["has_instruction"] * batch["has_response"]
        if "as" in terms or "ar" in terms:
            found = self._concepts(batch["response"], batch).valid.sum(dim=1).to(target.device)
            # near the noisiest timestep eq 20 has no earlier step to compare with
            earlier = self.process.has_noisier(drawn.timesteps, self.objective.step_gap).to(target.device)
            counts |= {"as": described * (found >= 2), "ar": described * (found >= 1) * earlier}
        if "blip2" in terms:
            counts["blip2"] = self._captioner().num_tokens(self._captions(batch)).to(target.device) * target * has_text
        return {name: counts[name] for name in terms}

    def answer(self, batch: Batch, with_loss: bool = False, text_only: Tensor | None = None) -> MultimodalOutput:
        """What the multimodal LLM makes of a batch's given responses; L_MMT's sums are 0 without `with_loss`.

        It reads the source image if it has a vision tower, except of samples that are `text_only` (bool [B]). Gradients
        are kept only where something in it trains.
        """
        seen = None if self.mllm.vision is None else batch["has_source"]
        if seen is not None and text_only is not None:
            seen = seen & ~text_only.to(seen.device)
        with contextlib.nullcontext() if self._llm_trains() else torch.no_grad():
            if with_loss:
                images = None if seen is None else self.features.seen_images(batch)
                return self.mllm(batch["instruction"], batch["response"], images, seen)
            states = self.features.states(batch, seen)
        nothing = torch.zeros(len(batch["key"]), device=states.states.device)
        return MultimodalOutput(nothing, nothing, states)

    def frozen_features(self, terms: Collection[str] = TERMS) -> list[str]:
        """Names of the features that no draw and no training changes, of those that the asked terms use.

        e0 is none where the adapters train, where L_MMT needs the LLM's logits, or where some samples hide their image
        from the LLM (`text_only`); while the adapters are frozen, the visual tokens stand in.
        """
        names = ["latents.target", "text.response"]
        if self.source_conditioning == "concat":
            names.append("latents.source")
        if not self._llm_trains():
            sees = self.mllm.vision is not None
            if "mmt" not in terms and not (sees and self.objective.text_only > 0):
                names.append("llm.states")
            elif sees:
                names.append("llm.visual_tokens")
        return names

    def _llm_trains(self) -> bool:
        return any(parameter.requires_grad for parameter in self.mllm.parameters())

    @torch.no_grad()
    def denoising_problem(self, batch: Batch, draws: Draws) -> DenoisingProblem:
        """What the denoiser gets and should answer for the targets of a batch, at the drawn noise and timesteps."""
        posterior = self.features.posterior(batch, "target")
        shape = posterior.mean.shape[1:]
        clean = from_posterior(self.vae, posterior, self._cast(draws.normal("posterior", shape)))
        noise = self._cast(draws.normal("noise", shape))
        drawn = self._draw_timesteps(draws)
        timesteps = drawn.timesteps.to(clean.device)
        drop_text, drop_image = (drop.to(clean.device) for drop in self._drops(draws))
        texts = ["" if drop else text for drop, text in zip(drop_text.tolist(), batch["response"], strict=True)]
        tokens, mask = self.features.text(batch, ["" if drop else "response" for drop in drop_text.tolist()])
        source = None
        if self.source_conditioning == "concat":
            source = _masked(self.features.posterior(batch, "source").mode(), batch["has_source"] & ~drop_image)
        return DenoisingProblem(
            clean,
            noise,
            self.process.add_noise(clean, noise, timesteps),
            timesteps,
            self.process.target(clean, noise, timesteps),
            texts,
            Conditioning(tokens, mask, image_latents=source),
            ~drop_text,
            drawn.caption_weight.to(clean.device),
        )

    def timesteps(self, draws: Draws) -> Tensor:
        """Timestep of each sample, [B]."""
        return self._draw_timesteps(draws).timesteps

    def _draw_timesteps(self, draws: Draws) -> TimestepDraw:
        return draw_timesteps(self.process, draws, self.objective.image_path)

    def _drops(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Which samples lose the text and which the source image, bool [B] each."""
        return condition_drops(draws.uniform("condition_drop"), self.objective.condition_drop)

    def _answer_problem(self, problem: DenoisingProblem, states: ResponseStates) -> tuple[Tensor, Injection]:
        return self.denoise(problem.noisy, problem.timesteps, problem.condition, states, problem.has_text)

    def _attention_losses(
        self,
        problem: DenoisingProblem,
        capture: AttentionCapture,
        concepts: ConceptTokens,
        states: ResponseStates,
        with_retention: bool,
    ) -> dict[str, Tensor]:
        """L_AS and L_AR (eq 19, 20) from the maps of forward A; the regions come from forward C on the same noise."""
        maps, valid = concept_maps(capture.average(), concepts)
        segregation = {"as": segregation_loss(maps, valid)}
        if not with_retention:
            return segregation
        noisier = self.process.noisier(problem.timesteps, self.objective.step_gap)
        earlier = problem._replace(
            noisy=self.process.add_noise(problem.clean, problem.noise, noisier), timesteps=noisier
        )
        with torch.no_grad(), self._captured(True) as before:
            self._answer_problem(earlier, states)
            regions = binarize(concept_maps(before.average(), concepts).maps, self.objective.region_threshold)
        return segregation | {"ar": retention_loss(maps, regions, valid)}

    def _layered_losses(self, batch: Batch, problem: DenoisingProblem, states: ResponseStates) -> dict[str, Tensor]:
        """L_fg and L_bg (eq 17, 18) from one forward under e_opt (eq 16); without M_r, M_t stands for it."""
        with torch.no_grad():
            phrases = amortised(self.encode_text, batch["object_phrase"], batch["background_phrase"])
            tokens = phrases.mixed(self.objective.alpha)
        condition = replace(problem.condition, tokens=tokens, mask=None)
        prediction, _ = self._answer_problem(problem._replace(condition=condition), states)
        has_reference = batch["has_reference_mask"].view(-1, 1, 1, 1)
        reference = torch.where(has_reference, batch["reference_mask"], batch["target_mask"])
        size = (problem.noisy.shape[2], problem.noisy.shape[3])
        inside, outside = mask_to_latents(batch["target_mask"], size), 1 - mask_to_latents(reference, size)
        norm = self.objective.layered_norm
        return {
            "fg": masked_noise_loss(prediction, problem.target, inside, norm=norm),
            "bg": masked_noise_loss(prediction, problem.target, outside, norm=norm),
        }

    def _caption_losses(self, batch: Batch, problem: DenoisingProblem, prediction: Tensor) -> Tensor:
        """L_BLIP2 of the predicted images whose timestep is early, weighted so that they stand for all."""
        return caption_loss(
            self._captioner(),
            self.vae,
            self.process,
            prediction,
            problem.noisy,
            problem.timesteps,
            self._captions(batch),
            problem.caption_weight * batch["has_target"] * problem.has_text,
            self.objective.image_path,
        ).values

    def _captions(self, batch: Batch) -> list[str]:
        """Caption of each target, or its description z_d where there is none."""
        pairs = zip(batch["target_caption"], batch["response"], strict=True)
        return [caption or response for caption, response in pairs]

    def _concepts(self, texts: Sequence[str], batch: Batch) -> ConceptTokens:
        return locate_concepts(self.tokenizer, texts, batch["concepts"], self.objective.max_text_chunks)

    def _captured(self, wanted: bool) -> contextlib.AbstractContextManager[AttentionCapture | None]:
        return capture_attention(self.unet, self.objective.attention_resolution) if wanted else contextlib.nullcontext()

    def _captioner(self) -> Any:
        if self.captioner is None:
            raise ValueError("loss term 'blip2' needs backbones.captioner, a BLIP-2 folder or hub id")
        return self.captioner

    # Denoiser and text -------------------------------------------------------------------------------------------

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
        # a trained denoiser is float32 between bfloat16 parts
        noisy, condition = noisy.to(self.unet.dtype), as_dtype(condition, self.unet.dtype)
        with inject(self.unet, modules, states.states, states.mask, active) as injection:
            prediction = denoise(self.unet, noisy, timesteps, condition)
        return prediction, injection

    def condition(self, responses: Sequence[str], source: Tensor, has_source: Tensor) -> Conditioning:
        """What conditions the denoiser: CLIP's states of the response and, for "concat", the source latents."""
        latents = None
        if self.source_conditioning == "concat":
            latents = _masked(encode_unscaled(self.vae, self._cast(source)), has_source)
        chunks = self.objective.max_text_chunks
        tokens, mask = encode_chunks(self.text_encoder, self.tokenizer, responses, chunks)
        return Conditioning(tokens, mask, image_latents=latents)

    def without_text(self, condition: Conditioning) -> Conditioning:
        """The same condition under the empty text, as long as the given one (for guidance)."""
        chunks = condition.tokens.shape[1] // self.tokenizer.model_max_length
        tokens, mask = encode_chunks(self.text_encoder, self.tokenizer, [""], chunks, chunks)
        mask = None if mask is None else mask.expand(condition.tokens.shape[:2])
        return replace(condition, tokens=tokens.expand_as(condition.tokens), mask=mask)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """CLIP text states [B,L,D], L being the tokenizer's length; longer texts are cut, their end token kept."""
        return encode_text(self.text_encoder, self.tokenizer, texts)

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


def _masked(latents: Tensor, seen: Tensor) -> Tensor:
    return latents * seen.view(-1, 1, 1, 1)
