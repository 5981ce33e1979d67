"""Training of UMM-Diffusion (Ma et al. 2023), both phases: the MLP under a frozen denoiser, then both together."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.clip_image import load_clip_image
from mmig.backbones.diffusion import check_compatible, load_unet
from mmig.backbones.named import Backbone, BackboneSettings
from mmig.backbones.parts import CLIP_VISION
from mmig.cache.frozen import CachedFeature
from mmig.cache.latent import LatentFeatures
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.latents import from_posterior
from mmig.diffusion.process import Weighting
from mmig.methods.umm_diffusion.conditions import condition_mix
from mmig.methods.umm_diffusion.editor import FIELD, SubjectEditor, SubjectSampling
from mmig.methods.umm_diffusion.encoder import PseudoWord, unified_states
from mmig.methods.umm_diffusion.export import save_umm_diffusion
from mmig.methods.umm_diffusion.words import MultiToken, PlacedSubjects, all_lost, place_subjects
from mmig.training.latent_module import LatentModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

logger = logging.getLogger(__name__)
EMBEDDINGS = "image_embeddings"
"""The cached embeddings of the attached pictures."""


class UMMDiffusionModule(LatentModule):
    """Trains UMM-Diffusion; loss term `sdm` (eq 4).

    Phase 1 trains the MLP alone (`pseudo_word`), through the frozen denoiser and text encoder; phase 2 the UNet too,
    from a run of phase 1 (--init_from). All else is the same in both, and CLIP and the autoencoder stay frozen.

    Of each sample one condition is drawn: none, text and pictures (h_u), or the text alone (h_y). A sample counts
    nothing without target, caption, or a picture whose word is among the tokens that the text encoder reads; `logged`
    has their share and the subjects that are lost for each reason.

    Args:
        optimizer, backbone, weighting, timestep_exponent, seed, micro_batch_size: see `LatentModule`.
        unet: folder or hub id of the text-to-image UNet.
        image_encoder: folder or hub id of a CLIP.
        phase: 1 or 2.
        loss_weights: of `sdm`.
        image_embedding: "projected" is CLIP's embedding, as in the paper; "pooled" the class token before the
            projection, of towers that were saved without one.
        hidden_dim: of the MLP.
        multi_token: what becomes of words of several tokens, see `MultiToken`.
        drop: samples without condition.
        subject_share: of the others, those with pictures. 1 in phase 1 gives every one of these a gradient.
        target_latents: what the noise is added to: a "sample" of the target's posterior, as Stable Diffusion was
            trained, or its "mode".
        gradient_checkpointing: recompute the UNet's activations in the backward.
        sampling: how `make_pipeline` draws.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
        ValueError: settings out of range.
    """

    needed_fields = ("target", FIELD, "attachments")
    hub_task: ClassVar[str] = "text-to-image"
    new_parts: ClassVar[tuple[str, ...]] = ("pseudo_word",)
    exported_parts: ClassVar[Mapping[str, str]] = {"unet": "unet", "pseudo_word": "pseudo_word"}
    backbone_settings: ClassVar[BackboneSettings] = {
        **LatentModule.backbone_settings,
        "image_encoder": {"image_encoder": CLIP_VISION},
    }

    def __init__(
        self,
        optimizer: OptimizerConfig,
        backbone: str | Backbone,
        unet: str | Backbone,
        image_encoder: str | Backbone,
        phase: Literal[1, 2],
        loss_weights: dict[str, float] | None = None,
        image_embedding: Literal["projected", "pooled"] = "projected",
        hidden_dim: int = 1024,
        multi_token: MultiToken = "last",
        drop: float = 0.1,
        subject_share: float = 0.6,
        target_latents: Literal["mode", "sample"] = "sample",
        weighting: Weighting = "uniform",
        timestep_exponent: float = 1.0,
        gradient_checkpointing: bool = False,
        sampling: SubjectSampling | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        weights = {"sdm": 1.0} if loss_weights is None else loss_weights
        more = {"image_encoder": image_encoder}
        super().__init__(optimizer, weights, backbone, unet, weighting, timestep_exponent, seed, micro_batch_size, more)
        for name, value in (("drop", drop), ("subject_share", subject_share)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a share in [0, 1], found {value}")
        self.unet = load_unet(
            self.origins["unet"],
            in_channels=self.vae.config.latent_channels,
            frozen=phase == 1,
            gradient_checkpointing=gradient_checkpointing,
        ).to(memory_format=torch.channels_last)
        check_compatible(self.unet, self.text_encoder, self.vae, self.tokenizer)
        self.image_encoder = load_clip_image(self.origins["image_encoder"], projected=image_embedding == "projected")
        words = self.text_encoder.get_input_embeddings().weight
        self.pseudo_word = PseudoWord(self.image_encoder.width, words.shape[1], hidden_dim)
        self.pseudo_word.match_length(words)
        self.multi_token: MultiToken = multi_token
        self.drop, self.subject_share = drop, subject_share
        self.target_latents = target_latents
        self.sampling = sampling
        self.features = LatentFeatures(self, self.feature_facts)
        depends = ("image_encoder", "image_pixels")
        embeddings = CachedFeature(EMBEDDINGS, self._embeddings_to_cache, depends)
        self.features.declare(self.features.of_latents("target"), embeddings)
        self._lost: dict[str, Tensor] = {}
        self._warned = False

    # Losses ------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Squared error of the denoiser's prediction (eq 4)."""
        placed = place_subjects(self.tokenizer, batch, FIELD, self.multi_token)
        self._note(placed, batch)
        whole = batch["has_target"] & batch[f"has_{FIELD}"]
        counts = placed.has_subject.to(self.device) & whole.to(self.device)
        return {"sdm": LossTerm(counts, lambda: self._error(batch, draws, placed))}

    def _note(self, placed: PlacedSubjects, batch: Batch) -> None:
        """Remember what was lost, and say the first of it."""
        shares = {"no_subject": (~placed.has_subject).float().mean()}
        shares |= {f"subjects_{reason}": torch.tensor(share) for reason, share in placed.count_lost().items()}
        self._lost = {name: share.to(self.device) for name, share in shares.items()}
        if not self._warned and (first := next(all_lost(placed, batch["key"]), None)):
            self._warned = True
            logger.warning("%s; it is left out, further ones are counted in train/subjects_*", first)

    def logged(self) -> dict[str, Tensor]:
        """`no_subject`, the share of samples that count nothing for want of one, and subjects lost a sample."""
        return self._lost

    def _error(self, batch: Batch, draws: Draws, placed: PlacedSubjects) -> Tensor:
        """L_SDM of each sample, [B]."""
        tokens = self._condition(batch, draws, placed)
        with torch.no_grad():
            posterior = self.features.posterior(batch, "target")
            noise = None
            if self.target_latents == "sample":
                noise = draws.normal("posterior", posterior.mean.shape[1:]).to(posterior.mean.device)
            target = from_posterior(self.vae, posterior, noise)
        return self.sdm(self.unet, target, Conditioning(tokens), draws)

    def _condition(self, batch: Batch, draws: Draws, placed: PlacedSubjects) -> Tensor:
        """States of the condition that was drawn for each sample, [B,L,D].

        All are computed, so that the MLP is in the graph of every rank, whatever its samples drew.
        """
        pseudo_words = self.pseudo_word(self._embeddings(batch))
        states = unified_states(
            self.text_encoder, placed.ids.to(self.device), placed.owner.to(self.device), pseudo_words
        )
        drawn = condition_mix(draws.uniform("condition"), self.drop, self.subject_share)
        nothing, unified = (chosen.to(self.device)[:, None, None] for chosen in drawn)
        return torch.where(nothing, self.features.empty_text(), torch.where(unified, states.unified, states.text))

    # Features ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _embeddings(self, batch: Batch) -> Tensor:
        """c_s of the attached pictures, [B,K,D] with K at least 1; those of empty slots stand for nothing."""
        stored = self.features.stored(EMBEDDINGS, batch)
        values = self._embed(batch) if stored is None else stored[0].to(self.device)
        return values if values.shape[1] else values.new_zeros(len(values), 1, values.shape[2])

    def _embed(self, batch: Batch) -> Tensor:
        pictures = batch["attachment_images"].to(self.device)
        if not pictures.shape[1]:  # nobody has one; the encoder runs all the same
            pictures = pictures.new_zeros(len(pictures), 1, *pictures.shape[2:])
        return self.image_encoder(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])

    def _embeddings_to_cache(self, batch: Batch) -> list[Tensor]:
        """Of each sample one row an attachment."""
        return [rows[: len(kinds)] for rows, kinds in zip(self._embed(batch), batch["attachment_kinds"], strict=True)]

    def feature_facts(self) -> dict[str, str]:
        """What cached features of the frozen parts depend on."""
        return super().feature_facts() | {"image_pixels": self.image_encoder.pixels}

    @property
    def images_with_features(self) -> frozenset[str]:
        """The target; the source is not looked at."""
        return frozenset({"source", "target"})

    # What others see ---------------------------------------------------------------------------------------------

    def named_backbones(self) -> dict[str, nn.Module]:
        """The frozen parts; a run stores the UNet once it trains."""
        return super().named_backbones() | {"image_encoder": self.image_encoder, "unet": self.unet}

    def make_pipeline(self) -> SubjectEditor:
        """Draws the target caption with the attached pictures in it."""
        return SubjectEditor(
            self.vae,
            self.unet,
            self.text_encoder,
            self.tokenizer,
            self.scheduler,
            self.image_encoder,
            self.pseudo_word,
            self.multi_token,
            self.sampling,
        )

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """All parts; diffusers' `StableDiffusionPipeline` opens the folder too, and draws by the text alone."""
        return save_umm_diffusion(self.make_pipeline(), folder)
