"""MMIG's parts wired together: what the losses (`losses.py`) and sampling are made of (eq 1-22).

Sampling with the same parts is `mmig/methods/mmig/pipeline.py`; which terms count and what trains,
`mmig/methods/mmig/stages/`.
"""

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.cache.frozen import CachedFeature
from mmig.diffusion.conditioning import Conditioning, as_dtype, condition_drops, denoise
from mmig.diffusion.injection import Injection, inject
from mmig.diffusion.kinds import kind_of
from mmig.diffusion.latents import encode_unscaled, from_posterior, normalise
from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.reading import reader_of
from mmig.language.sequences import EncodedResponses, ResponseStates
from mmig.methods.mmig.captioner import Captioner
from mmig.methods.mmig.features import MMIGFeatures
from mmig.methods.mmig.image_path import TimestepDraw, draw_timesteps
from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.llm.multimodal import MultimodalLLM, MultimodalOutput
from mmig.methods.mmig.objective import TERMS, ObjectiveConfig, SourceConditioning
from mmig.methods.mmig.parts import Parts
from mmig.methods.mmig.token_connectors.scale import square_sums
from mmig.training.rng import Draws


class MMIG(nn.Module):
    """MMIG as one module.

    Args:
        parts: loaded parts.
        source_conditioning: how the denoiser sees the source image; "concat" needs a UNet with 8 input channels,
            "sequence" a FLUX transformer.
        multimodal: sizes and readings of the multimodal LLM; or the one that the parts' LLM belongs to already.
        objective: readings of the loss terms.

    Raises:
        ValueError: the denoiser, or its input channels, do not fit `source_conditioning`; a connector whose tokens it
            cannot read.

    Attributes:
        unet: the denoiser, a UNet or a transformer.
        kind: of the denoiser. reader: of its texts.
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
        self.captioner, self.connector = parts.captioner, parts.connector
        self.text_encoder_2, self.tokenizer_2 = parts.text_encoder_2, parts.tokenizer_2
        self.tokenizer, self.scheduler = parts.tokenizer, parts.scheduler
        self.source_conditioning = source_conditioning
        self.objective = objective or ObjectiveConfig()
        self.process = NoiseProcess.from_scheduler(parts.scheduler, self.objective.noise_levels)
        self.kind = kind_of(self.unet)
        self.kind.check(self.unet, self.vae.config.latent_channels, source_conditioning)
        self._check_connector()
        self.reader = reader_of(self, self.kind.reads_pooled, self.objective.max_text_chunks)
        self.features = MMIGFeatures(self)

    # Training ----------------------------------------------------------------------------------------------------

    def answer(
        self, batch: Batch, encoded: EncodedResponses | None = None, text_only: Tensor | None = None
    ) -> MultimodalOutput:
        """What the multimodal LLM makes of a batch's given responses.

        It reads the source image if it has a vision tower, except of samples that are `text_only` (bool [B]). Gradients
        are kept only where something in it trains.

        Args:
            batch: with instructions and responses.
            encoded: the responses' ids, for L_MMT, whose sums are 0 without.
            text_only: bool [B].
        """
        seen = None if self.mllm.vision is None else batch["has_source"]
        if seen is not None and text_only is not None:
            seen = seen & ~text_only.to(seen.device)
        with contextlib.nullcontext() if self._llm_trains() else torch.no_grad():
            if encoded is not None:
                images = None if seen is None else self.features.seen_images(batch)
                return self.mllm(batch["instruction"], encoded, images, seen)
            states = self.features.states(batch, seen)
        nothing = torch.zeros(len(batch["key"]), device=states.states.device)
        return MultimodalOutput(nothing, nothing, states)

    def frozen_features(self, terms: Collection[str] = TERMS) -> list[CachedFeature]:
        """The features that no draw and no training changes, of those that the asked terms use.

        e0 is none where the adapters train, where L_MMT needs the LLM's logits, or where some samples hide their image
        from the LLM (`text_only`); while the adapters are frozen, the visual tokens stand in.
        """
        known = self.features
        features, read = [known.of_latents("target")], self.objective.denoiser_text
        if read != "none":
            features += [known.of_text(read), *known.of_pooled(read)]
        if self.source_conditioning != "img2img":
            features.append(known.of_latents("source"))
        if not self._llm_trains():
            sees = self.mllm.vision is not None
            if "mmt" not in terms and not (sees and self.objective.text_only > 0):
                features.append(known.of_states())
            elif sees:
                features.append(known.of_visual_tokens())
        return features

    def _llm_trains(self) -> bool:
        return any(parameter.requires_grad for parameter in self.mllm.parameters())

    @torch.no_grad()
    def conditioned_latents(
        self, batch: Batch, draws: Draws, drop_text: Tensor, drop_image: Tensor
    ) -> tuple[Tensor, Conditioning]:
        """Latents of the targets, and what conditions the denoiser of each; bool [B] say what is dropped."""
        posterior = self.features.posterior(batch, "target")
        clean = from_posterior(self.vae, posterior, self._cast(draws.normal("posterior", posterior.mean.shape[1:])))
        read = "" if self.objective.denoiser_text == "none" else self.objective.denoiser_text
        fields = ["" if drop else read for drop in drop_text.tolist()]
        tokens, mask = self.features.text(batch, fields)
        source = None
        if self.source_conditioning != "img2img":
            mode = self.features.posterior(batch, "source").mode()
            source = self._shown(mode, batch["has_source"] & ~drop_image)
        return clean, Conditioning(tokens, mask, self.features.pooled(batch, fields), source)

    @torch.no_grad()
    def token_sizes(self, batch: Batch, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """`square_sums` of the connector's tokens, and of the text encoder's states of the responses that they stand
        for, of the samples that have one.
        """
        tokens, counts = self.connector(*self.answer(batch).states, timesteps)
        return square_sums(tokens, counts & batch["has_response"].unsqueeze(1)), self.text_sizes(batch)

    @torch.no_grad()
    def text_sizes(self, batch: Batch) -> Tensor:
        """`square_sums` of the text encoder's states of the responses, of the samples that have one."""
        text, shown = self.features.text(batch, ["response"] * len(batch["key"]))
        shown = torch.ones_like(text[..., 0], dtype=torch.bool) if shown is None else shown
        return square_sums(text, shown & batch["has_response"].unsqueeze(1))

    def draw_timesteps(self, draws: Draws) -> TimestepDraw:
        """Each sample's timestep, and what it means for the losses."""
        return draw_timesteps(self.process, draws, self.objective.image_path)

    def drops(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Which samples lose the text and which the source image, bool [B] each."""
        return condition_drops(draws.uniform("condition_drop"), self.objective.condition_drop)

    def captions(self, batch: Batch) -> list[str]:
        """Caption of each target, or its description z_d where there is none."""
        pairs = zip(batch["target_caption"], batch["response"], strict=True)
        return [caption or response for caption, response in pairs]

    def needed_captioner(self) -> Captioner:
        """The captioner; ValueError without one."""
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
        """Prediction of the denoiser [B,c,h,w] with the mutual support modules, or another connector, at their places.

        Args:
            noisy: x_t, [B,c,h,w].
            timesteps: [B].
            condition: text tokens and source latents, where it sees any.
            states: e0 with its mask.
            active: bool [B]; false for rows that pass without the connector (unconditional ones).
        """
        if self.connector is not None:
            condition = self.connector.condition(condition, states, timesteps, active)
        modules = {name.replace("-", "."): module for name, module in self.mmsm.items()}
        # a trained denoiser is float32 between bfloat16 parts
        noisy, condition = noisy.to(self.unet.dtype), as_dtype(condition, self.unet.dtype)
        grid, entry = self.kind.grid((noisy.shape[2], noisy.shape[3])), self.kind.image_entry
        with inject(self.unet, modules, states.states, states.mask, active, grid, entry) as injection:
            prediction = denoise(self.unet, noisy, timesteps, condition)
        return prediction, injection

    def condition(self, texts: Sequence[str], source: Tensor, has_source: Tensor) -> Conditioning:
        """What conditions the denoiser: its text encoders' states of its texts, and the source latents where it sees
        any: as they come for "concat", normalised for "sequence", zero where there is no source.
        """
        latents = None
        if self.source_conditioning != "img2img":
            latents = self._shown(encode_unscaled(self.vae, self._cast(source)), has_source)
        return Conditioning(*self.reader.read(texts), latents)

    def without_text(self, condition: Conditioning) -> Conditioning:
        """The same condition under the empty text, as long as the given one (for guidance)."""
        count = len(condition.tokens)
        tokens, mask, pooled = self.reader.read([""], condition.tokens.shape[1] // self.reader.length)
        mask = None if mask is None else mask.expand(condition.tokens.shape[:2])
        pooled = None if pooled is None else pooled.expand(count, -1)
        return replace(condition, tokens=tokens.expand_as(condition.tokens), mask=mask, pooled=pooled)

    def denoiser_texts(self, instructions: Sequence[str], responses: Sequence[str]) -> list[str]:
        """What the denoiser's text encoder reads of each sample, as `objective.denoiser_text` says."""
        kind = self.objective.denoiser_text
        return [""] * len(responses) if kind == "none" else list(responses if kind == "response" else instructions)

    @property
    def replaces_text(self) -> bool:
        """Whether the denoiser reads the connector's tokens in place of its text encoder's."""
        return self.connector is not None and self.connector.place == "replace"

    def unread_text(self, uses_connector: bool) -> str:
        """The setting for which the denoiser reads no text, where the connector works or not; "" where it reads one."""
        return self.objective.unread_text(self.replaces_text and uses_connector)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Text states [B,L,D], L being the reader's length; longer texts are cut, their end token kept."""
        return self.reader.read(texts, chunks=1).tokens

    def _check_connector(self) -> None:
        if self.connector is not None and not self.kind.takes_mask:
            raise ValueError(
                f"connector: {type(self.connector.settings).__name__} hides tokens that do not count, and a "
                f"{type(self.unet).__name__} takes no mask of its tokens; expected none: give mmsm.locations instead"
            )

    def _shown(self, latents: Tensor, seen: Tensor) -> Tensor:
        """Latents of sources, as the autoencoder gives them, as the denoiser is shown them."""
        latents = normalise(self.vae, latents) if self.source_conditioning == "sequence" else latents
        return latents * seen.view(-1, 1, 1, 1)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.unet.device, self.vae.dtype)
