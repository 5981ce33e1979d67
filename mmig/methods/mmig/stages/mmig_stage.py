"""What the stages of MMIG share: the parts, what of them trains, and the losses that count."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.base.batches import micro_batches
from mmig.checkpoints.checkpoint import trained_resolution
from mmig.editor import Editor
from mmig.methods.mmig.export import save_mmig
from mmig.methods.mmig.exported import is_exported, read_exported
from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.llm.facts import multimodal_facts
from mmig.methods.mmig.losses import Losses
from mmig.methods.mmig.mmsm_start import change_sizes, unmeasured
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.objective import TERMS, ObjectiveConfig, SourceConditioning
from mmig.methods.mmig.parts import BACKBONES, BackboneConfig, MMSMConfig, load_parts
from mmig.methods.mmig.pipeline import MMIGEditor, MMIGPipeline, SamplingConfig
from mmig.methods.mmig.stages.checks import check_objective, mmsm_beside
from mmig.methods.mmig.token_connectors.connector import ConnectorSettings
from mmig.methods.mmig.token_connectors.scale import match_scale
from mmig.training.fsdp import whole_weights
from mmig.training.modes import evaluating
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

logger = logging.getLogger(__name__)
Profile = Literal["paper", "practical", "strict"]
PRACTICAL_WEIGHTS = {"as": 1e-3, "ar": 1e-3}
"""Attention terms are worth 0.5 a concept at their best, the noise loss of a trained denoiser 0.1: TokenCompose and
CoMat weigh theirs by 1e-3 and less."""


class MMIGStage(TrainingModule):
    """A stage of MMIG (section 3.5 of the paper). Subclasses are declarations.

    Args:
        backbones: hub ids or folders of the pretrained parts.
        optimizer: AdamW and its schedule.
        mmsm: sizes and places of the mutual support modules.
        multimodal: sizes and readings of the multimodal LLM.
        objective: readings of the loss terms.
        source_conditioning: how the denoiser sees the source image.
        sampling: how the stage's pipeline samples.
        profile: which losses count, and how much. "paper": the stage's, all with weight 1; "practical": the same, those
            on attention weighted down; "strict": exactly those that the paper names for the stage, weight 1.
        loss_weights: weights in place of the profile's, by name; a loss that is not named is not computed.
        seed: seed of every draw.
        micro_batch_size: samples a forward and backward; None takes the rank's whole part of the global batch.
        connector: what makes tokens of the LLM's states, in the place of the mutual support modules; wherever the part
            `mmsm` trains, it does.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
        ValueError: a part that this stage trains, or a loss needs, is not configured.
    """

    known_losses = TERMS
    backbone_settings = BACKBONES
    terms_without_timestep = ("mmt", "blip2")
    trained_parts: ClassVar[tuple[str, ...]]
    counted_losses: ClassVar[tuple[str, ...]]
    strict_losses: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        backbones: BackboneConfig,
        optimizer: OptimizerConfig,
        mmsm: MMSMConfig | None = None,
        multimodal: MultimodalConfig | None = None,
        objective: ObjectiveConfig | None = None,
        source_conditioning: SourceConditioning = "img2img",
        sampling: SamplingConfig | None = None,
        profile: Profile = "paper",
        loss_weights: dict[str, float] | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
        connector: ConnectorSettings | None = None,
    ) -> None:
        if loss_weights and profile != "paper":
            raise ValueError(f"profile {profile!r} and loss_weights: give one of them, for both say what counts")
        super().__init__(optimizer, loss_weights or self.profile_weights(profile), seed, micro_batch_size)
        objective, mmsm = objective or ObjectiveConfig(), mmsm_beside(connector, mmsm)
        check_objective(self.loss_weights, objective, mmsm, connector)
        self._check_parts(backbones)
        self.name_backbones(backbones=backbones)
        self.sampling = sampling or SamplingConfig()
        # without its loss nothing would reach the captioner
        trained = [part for part in self.trained_parts if part != "captioner" or "blip2" in self.loss_weights]
        parts = load_parts(backbones, mmsm, trained, connector)
        self.mmig = MMIG(parts, source_conditioning, multimodal, objective)
        self._choose_trained(trained)
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise ValueError(f"{type(self).__name__} trains the connector alone, and mmsm.locations is []: name some")
        self.features = self.mmig.features
        self.features.facts = self.feature_facts
        self.features.declare(*self.mmig.frozen_features(self.loss_weights))
        self._losses: Losses | None = None

    @classmethod
    def profile_weights(cls, profile: Profile) -> dict[str, float]:
        """Loss weights of a profile by name."""
        names = cls.strict_losses if profile == "strict" else cls.counted_losses
        if "sdm" not in names:
            logger.warning(
                "strict profile of %s: without L_SDM only half of MMSM gets a gradient, and L_MMSM can collapse",
                cls.__name__,
            )
        weights = dict.fromkeys(names, 1.0)
        if profile == "practical":
            weights |= {name: weight for name, weight in PRACTICAL_WEIGHTS.items() if name in weights}
        return weights

    def _check_parts(self, backbones: BackboneConfig) -> None:
        needs = {"vision": "mllm.adapters" in self.trained_parts, "captioner": "blip2" in self.loss_weights}
        for name, needed in needs.items():
            if needed and getattr(backbones, name) is None:
                raise ValueError(f"{type(self).__name__} needs backbones.{name}: give a hub id or a folder")

    def _choose_trained(self, trained: Sequence[str]) -> None:
        """Freeze everything, then let some parts train; a frozen part has no dropout."""
        model = self.mmig
        frozen = (model.unet, model.vae, model.text_encoder, model.text_encoder_2, model.mllm, model.mmsm)
        for part in (part for part in frozen if part is not None):
            part.requires_grad_(False)
        for part in (model.mmsm, model.mllm.adapters):
            part.eval()
        if model.connector is not None:
            model.connector.requires_grad_("mmsm" in trained).train("mmsm" in trained)
        for name in trained:
            if name != "captioner":  # loaded with its Q-Former trainable and the rest frozen
                model.get_submodule(name).requires_grad_(True).train()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Before the first step, bring the connector's tokens to the size of the text states that they stand for, and
        what mutual support modules add to the part of it that they start with.

        By the whole global batch, on every rank alike; a run that goes on, or starts from another, brings its size.
        """
        connector = self.mmig.connector
        if connector is not None and not self.step and not connector.scale > 0:
            with whole_weights(self.trainer), evaluating(self), torch.no_grad():
                sizes = [self._token_sizes(part) for part in micro_batches(batch, self.micro_batch_size)]
            made, text = (torch.stack(parts).sum(dim=0) for parts in zip(*sizes, strict=True))
            match_scale(connector, (made, text), self._reduce)
        if unmeasured(self.mmig.mmsm):
            with whole_weights(self.trainer), evaluating(self):
                self._match_changes([*micro_batches(batch, self.micro_batch_size)])

    def _match_changes(self, parts: Sequence[Batch]) -> None:
        """Give the mutual support modules the size that they start with, in the order of the denoiser."""
        text = torch.stack([self.mmig.text_sizes(part) for part in parts]).sum(dim=0)
        for _ in self.mmig.mmsm:
            found = [change_sizes(Losses(self.mmig, part, self._draws_of(part), ("sdm",))) for part in parts]
            name = next(iter(found[0]))
            module, made = self.mmig.mmsm[name], torch.stack([sizes[name] for sizes in found]).sum(dim=0)
            match_scale(module, (made, text), self._reduce, part=module.start)
            if not unmeasured(self.mmig.mmsm):
                return

    def _token_sizes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.mmig.token_sizes(batch, self.timesteps(self._draws_of(batch)))

    def _draws_of(self, batch: Batch) -> Draws:
        return Draws(self.seed, batch["position"])

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """The stage's loss terms by name."""
        self._losses = Losses(self.mmig, batch, draws, self.loss_weights)
        return self._losses.terms()

    def timesteps(self, draws: Draws) -> Tensor:
        """Timestep of each sample's noise loss."""
        return self.mmig.draw_timesteps(draws).timesteps

    def feature_facts(self) -> dict[str, str]:
        """What the cached features of this stage depend on."""
        model = self.mmig
        return {
            **self.fingerprints(),
            **multimodal_facts(model.mllm),
            "max_text_chunks": str(model.objective.max_text_chunks),
            "dtype": str(model.vae.dtype),
        }

    @property
    def images_with_features(self) -> frozenset[str]:
        """All of them, except the source while the LLM looks at it in every step."""
        seen = self.mmig.mllm.vision is not None and not any(name.startswith("llm.") for name in self.features.names)
        return frozenset({"target"} if seen else {"source", "target"})

    def logged(self) -> dict[str, Tensor]:
        """Spread of the pooled e3 and e2 over the batch, near 0 when L_MMSM has collapsed to a constant.

        With attention losses also how many concepts a response they do without: `concepts_missing` from the response,
        `concepts_truncated` behind the text encoder's end.
        """
        if self._losses is None:
            return {}
        spreads: dict[str, Tensor] = {}
        if len(self.mmig.mmsm):
            spreads["std_text"], spreads["std_map"] = self._losses.a.injection.pooled_std()
        if self._losses.a.attention is None:
            return spreads
        concepts = self._losses.concepts
        described = concepts.content.any(dim=1)
        lost = {"concepts_missing": concepts.missing, "concepts_truncated": concepts.truncated}
        return spreads | {name: counts[described].float().mean() for name, counts in lost.items()}

    def named_backbones(self) -> dict[str, nn.Module]:
        """The pretrained parts. Fresh adapters of a text-only LLM change nothing, so they need not be stored either."""
        model = self.mmig
        parts = {
            "unet": model.unet if "unet" in self.origins else None,  # else it is fresh
            "vae": model.vae,
            "text_encoder": model.text_encoder,
            "text_encoder_2": model.text_encoder_2,
            "llm": model.mllm.llm,
            "clip_vision": model.mllm.vision,
            "blip2": model.captioner,
            "adapters": model.mllm.adapters if model.mllm.vision is None else None,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def absent_parts(self) -> tuple[str, ...]:
        """The captioner, of which stage 5 trains a part, where no loss of this stage asks it."""
        return ("mmig.captioner",) if self.mmig.captioner is None else ()

    @property
    def unlearnt_parts(self) -> tuple[str, ...]:
        """A fresh denoiser in a stage that freezes it, or trains only updates of it."""
        return () if "unet" in self.origins or "unet" in self.trained_parts else ("mmig.unet",)

    def make_pipeline(self) -> Editor:
        """MMIG's pipeline with this stage's weights."""
        return MMIGEditor(MMIGPipeline.from_model(self.mmig), self.sampling)

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """MMIG's pipeline as a folder, updates merged."""
        return save_mmig(self.mmig, self.sampling, trained_resolution(config), folder)

    def read_exported(self, path: Path) -> dict[str, Any] | None:
        """Connector and adapters of a folder of `export`; None of another one."""
        return read_exported(path) if is_exported(path) else None
