"""Training of MGIE (Fu et al. 2024) and, without eyes, LGIE: rows of the language model, the edit head, the UNet.

L = L_ins + 0.5 L_edit: the language model learns to write the expressive instruction and the [IMG] tokens, and the
denoiser to edit under what the edit head makes of these.
"""

import functools
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.diffusion import check_compatible, load_unet
from mmig.backbones.named import Backbone, BackboneSettings
from mmig.backbones.parts import MLLM_PARTS, SCHEDULER, TEXT_ENCODER, TOKENIZER, UNET, VAE
from mmig.cache.frozen import CachedFeature, image
from mmig.cache.latent import LatentFeatures
from mmig.diffusion.conditioning import Conditioning, condition_drops
from mmig.diffusion.latents import from_posterior
from mmig.diffusion.process import Weighting
from mmig.methods.mgie.export import load_writer, save_mgie
from mmig.methods.mgie.head import EditHead, HeadSize
from mmig.methods.mgie.pipeline import MGIEPipeline, MGIESampling
from mmig.methods.mgie.writer import Encoded, InstructionWriter, WriterConfig
from mmig.training.latent_module import LatentModule
from mmig.training.optim import OptimizerConfig, parameters_by_group
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

logger = logging.getLogger(__name__)
WEIGHTS = {"text": 1.0, "sdm": 0.5}
"""Published: L_ins and L_edit."""
ALIGN = "align"
VISUAL = "mllm.visual"
"""The cached tokens of the source."""


class MGIEModule(LatentModule):
    """Trains MGIE; loss terms `text` (L_ins), `sdm` (L_edit) and, of no paper of MGIE's, `align`.

    `align` draws the guidance to the denoiser's own text states of the expressive instruction, mean squared, as GILL
    does (Koh et al. 2023, eq 5): with `text` alone beside it the edit head learns to speak to the denoiser without
    running it, and a run that starts from there (--init_from) need not begin with a head of noise.

    What trains: rows of the language model's tables (`writer`), the edit head (`head`), the UNet (`unet`). The decoder
    blocks, the image tower, its projector and the autoencoder are frozen. The paper gives the denoiser another learning
    rate than the language part: optimizer.groups {unet: {lr: ...}}.

    The conditions are dropped as InstructPix2Pix drops them; without the text the guidance is head(0 + e), made of the
    tokens' embeddings as they are at that step. A sample counts in no term where the instruction or its `expressive` is
    missing, where the picture is missing that the language model should see, or where they are longer than
    `language.max_length`, so that the [IMG] tokens would be lost: `logged` has the shares, the log the first one.

    Args:
        optimizer, weighting, timestep_exponent, seed, micro_batch_size: see `LatentModule`.
        backbone: pipeline folder or hub id with `vae` and `scheduler`.
        unet: folder or hub id of the UNet to start from, whose input is widened to take the source's latents too (new
            channels zero, bias kept; the released code leaves the bias random).
        mllm: folder or hub id of a LLaVA or Qwen-VL in transformers' layout; for LGIE a causal language model does too.
        text_encoder: folder or hub id of a pipeline with the denoiser's text encoder, which `align` needs.
        sees: False is LGIE: the same prompt without the picture, and no image tower.
        loss_weights: of the terms; a term that is not named is not computed. None: 1 and 0.5, as published.
        language: sizes and readings of the language model.
        head: sizes of the edit head.
        drop: d; a part d of the samples loses the text alone, one more d both, one more d the picture.
        gradient_checkpointing: recompute the UNet's activations in the backward.
        sampling: how `make_pipeline` edits.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
        ValueError: settings that do not fit.
    """

    needed_fields = ("instruction", "expressive")
    known_losses = ("text", "sdm", ALIGN)
    terms_without_timestep = ("text", ALIGN)
    exported_parts: ClassVar[Mapping[str, str]] = {}
    backbone_settings: ClassVar[BackboneSettings] = {
        "backbone": {"vae": VAE, "scheduler": SCHEDULER},
        "unet": {"unet": UNET},
        "mllm": MLLM_PARTS,
        "text_encoder": {"text_encoder": TEXT_ENCODER, "tokenizer": TOKENIZER},
    }

    def __init__(
        self,
        optimizer: OptimizerConfig,
        backbone: str | Backbone,
        unet: str | Backbone,
        mllm: str | Backbone,
        sees: bool = True,
        loss_weights: dict[str, float] | None = None,
        language: WriterConfig | None = None,
        head: HeadSize | None = None,
        drop: float = 0.05,
        weighting: Weighting = "uniform",
        timestep_exponent: float = 1.0,
        gradient_checkpointing: bool = False,
        sampling: MGIESampling | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
        text_encoder: str | Backbone | None = None,
    ) -> None:
        weights = WEIGHTS if loss_weights is None else loss_weights
        super().__init__(
            optimizer,
            dict(weights),
            backbone,
            unet,
            weighting,
            timestep_exponent,
            seed,
            micro_batch_size,
            {"mllm": mllm, "text_encoder": text_encoder},
        )
        self._check_alignment(head or HeadSize())
        self.unet = load_unet(
            self.origins["unet"],
            in_channels=2 * self.vae.config.latent_channels,
            frozen="sdm" not in weights,
            gradient_checkpointing=gradient_checkpointing,
        ).to(memory_format=torch.channels_last)
        check_compatible(self.unet, vae=self.vae)
        self.writer = self._load_writer(sees, language or WriterConfig())
        width = self.writer.llm.config.get_text_config().hidden_size
        self.head = EditHead(width, self.unet.config.cross_attention_dim, **asdict(head or HeadSize()))
        self.drop = drop
        self.sampling = sampling
        self.features = LatentFeatures(self, self.feature_facts)
        self.features.declare(*self._frozen_features())
        self._lost: dict[str, Tensor] = {}
        self._warned = False
        self._warn_of_decay()

    def _check_alignment(self, head: HeadSize) -> None:
        if ALIGN not in self.loss_weights:
            return
        if self.text_encoder is None:
            raise ValueError("loss_weights: align needs the denoiser's text encoder; give text_encoder")
        length = self.text_encoder.config.max_position_embeddings
        if head.num_queries != length:
            raise ValueError(
                f"loss_weights: align: the text encoder has {length} states, but the head {head.num_queries} queries; "
                f"set head.num_queries to {length}"
            )

    def _load_writer(self, sees: bool, config: WriterConfig) -> InstructionWriter:
        writer = load_writer(self.origins["mllm"], self.origins["mllm_tokenizer"], sees, config)
        if "text" not in self.loss_weights:  # nothing would reach the output rows, for which DDP would wait
            writer.freeze_output()
        return writer

    def _warn_of_decay(self) -> None:
        if self.writer.config.rows == "new":
            return
        tables = {id(parameter) for parameter in self.writer.parameters() if parameter.requires_grad}
        groups = parameters_by_group(self.named_parameters(), self.optimizer_config)
        for group, members in groups.items():
            decay = self.optimizer_config.group(group).weight_decay
            if decay and any(id(parameter) in tables for parameter in members):
                logger.warning(
                    "language.rows: all, with weight decay %g: rows of tokens that no text uses shrink towards 0; "
                    "set the decay of optimizer.groups.writer to 0, or take rows: new",
                    decay,
                )

    # Losses ------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """L_ins and L_edit, those that have a weight; both come out of one forward of the language model."""
        encoded = self.writer.encode(batch["instruction"], batch["expressive"])
        usable = self._usable(batch, encoded)
        tokens = torch.tensor([float(len(answer)) for answer in encoded.answers], device=usable.device)

        @functools.cache
        def read() -> tuple[Any, Tensor]:
            visual = self._visual_tokens(batch)
            if "text" in self.loss_weights:
                return self.writer(encoded, visual)
            return None, self.writer.states(encoded, visual)

        @functools.cache
        def guidance() -> Tensor:
            dropped = self._drops(draws)[0].to(self.device)
            states = read()[1].masked_fill(dropped[:, None, None], 0.0)  # the null guidance is head(0 + e)
            return self.head(states, self.writer.tokens.input_rows())

        terms = {
            "text": LossTerm(tokens * usable, lambda: read()[0].values),
            "sdm": LossTerm(
                usable * batch["has_target"].to(usable.device), lambda: self._edit_error(batch, draws, guidance())
            ),
            ALIGN: LossTerm(usable, lambda: self._distance(batch, draws, guidance())),
        }
        return {name: terms[name] for name in self.loss_weights}

    def _usable(self, batch: Batch, encoded: Encoded) -> Tensor:
        """Samples that count, bool [B]; notes the others."""
        present = batch["has_instruction"] & batch["has_expressive"]
        if self.writer.sees:
            present = present & batch["has_source"]
        whole = encoded.whole.to(present.device)
        self._lost = {"text_missing": (~present).float().mean(), "text_cut": (present & ~whole).float().mean()}
        if not self._warned and (lost := (present & ~whole).nonzero().flatten().tolist()):
            self._warned = True
            logger.warning(
                "sample %r: prompt and expressive text are longer than language.max_length (%d), which would lose its "
                "[IMG] tokens: it counts nothing; further ones are in train/text_cut",
                batch["key"][lost[0]],
                self.writer.config.max_length,
            )
        return present & whole

    def logged(self) -> dict[str, Tensor]:
        """Shares of the samples that counted nothing: `text_missing` for want of a field, `text_cut` for length."""
        return self._lost

    def _edit_error(self, batch: Batch, draws: Draws, guidance: Tensor) -> Tensor:
        """L_edit of each sample, [B]."""
        drop_image = self._drops(draws)[1].to(guidance.device)
        with torch.no_grad():
            posterior = self.features.posterior(batch, "target")
            noise = draws.normal("posterior", posterior.mean.shape[1:]).to(posterior.mean.device)
            target = from_posterior(self.vae, posterior, noise)
            hidden = drop_image | ~batch["has_source"].to(guidance.device)
            source = self.features.posterior(batch, "source").mode().masked_fill(hidden.view(-1, 1, 1, 1), 0.0)
        return self.sdm(self.unet, target, Conditioning(guidance, image_latents=source), draws)

    def _distance(self, batch: Batch, draws: Draws, guidance: Tensor) -> Tensor:
        """Mean squared distance of the guidance to the text encoder's states of what it stands for, [B]."""
        fields = ["" if dropped else "expressive" for dropped in self._drops(draws)[0].tolist()]
        with torch.no_grad():
            states, _ = self.features.text(batch, fields)
        return F.mse_loss(guidance.float(), states.float(), reduction="none").mean((1, 2))

    def _drops(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Which samples lose the text and which the picture, bool [B] each."""
        return condition_drops(draws.uniform("condition_drop"), self.drop)

    # Features ----------------------------------------------------------------------------------------------------

    def _visual_tokens(self, batch: Batch) -> Tensor | None:
        if not self.writer.sees:
            return None
        stored = self.features.stored(VISUAL, batch)
        if stored is not None:
            return stored[0].to(self.device)
        return self.writer.visual_tokens(image(batch, "source"), batch["has_source"])

    def _frozen_features(self) -> list[CachedFeature]:
        """Both posteriors and, with eyes, the source's tokens."""
        features = [self.features.of_latents("source"), self.features.of_latents("target")]
        if self.writer.sees:
            sized = () if self.writer.config.image_size is None else ("image_size",)
            features.append(CachedFeature(VISUAL, self._compute_visual, ("mllm", "language_dtype", *sized), True))
        if ALIGN in self.loss_weights:
            features.append(self.features.of_text("expressive"))
        return features

    def _compute_visual(self, batch: Batch) -> list[Tensor]:
        return list(self.writer.visual_tokens(image(batch, "source"), batch["has_source"]))

    def feature_facts(self) -> dict[str, str]:
        """What cached features of the frozen parts depend on."""
        language = self.writer.config
        return super().feature_facts() | {"language_dtype": language.dtype, "image_size": str(language.image_size)}

    @property
    def images_with_features(self) -> frozenset[str]:
        """Both."""
        return frozenset({"source", "target"})

    # What others see ---------------------------------------------------------------------------------------------

    def named_backbones(self) -> dict[str, nn.Module]:
        """The frozen autoencoder and language model; of the latter a run stores the tables if they train."""
        return super().named_backbones() | {"mllm": self.writer.llm}

    def make_pipeline(self) -> MGIEPipeline:
        """Edits the source by the instruction, and says what it understood."""
        return MGIEPipeline(self.vae, self.unet, self.scheduler, self.writer, self.head, self.sampling)

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """All parts, the language model with its [IMG] tokens among them."""
        return save_mgie(self.make_pipeline(), folder)
