"""Training of the decoder (Li et al. 2023, section 3.4.1, eq 3): a denoiser learns to draw a picture's own vector."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.diffusion import (
    check_compatible,
    load_second_text_encoder,
    load_text_encoder,
    load_tokenizer,
    load_unet,
)
from mmig.backbones.named import Backbone, BackboneSettings
from mmig.backbones.parts import (
    IMAGEBIND_PARTS,
    SCHEDULER,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    TOKENIZER,
    TOKENIZER_2,
    UNET,
    VAE,
)
from mmig.cache.latent import LatentFeatures
from mmig.diffusion.latents import from_posterior, reduction
from mmig.diffusion.process import Weighting
from mmig.diffusion.sdxl import TextCondition, conditioning, encode_by_two, pooled_width
from mmig.diffusion.text import encode_text
from mmig.methods.instruct_any2pix.any_to_image import AnySampling, AnyToImageEditor, save_any_to_image
from mmig.methods.instruct_any2pix.decoder import Decoder
from mmig.methods.instruct_any2pix.projectors import (
    EmbeddingProjector,
    IPAdapterProjector,
    cross_attentions,
)
from mmig.methods.instruct_any2pix.vectors import load_encoder, one_vector
from mmig.training.latent_module import LatentModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

TrainedUNet = Literal["full", "cross_attention", "none"]


@dataclass
class ProjectorSize:
    """Sizes of the paper's projector; see `EmbeddingProjector`."""

    hidden_dim: int = 4096
    constant_dim: int | None = None
    vector_norm: float = 20.0


@dataclass
class IPAdapterSize:
    """Sizes and texts of the IP-Adapter variant; see `IPAdapterProjector`.

    Attributes:
        num_tokens, scale, vector_norm: of the tokens.
        text, null_text: of every picture, and of the branch without condition; the released ones in short.
    """

    num_tokens: int = 4
    scale: float = 1.0
    vector_norm: float = 20.0
    text: str = "best quality, high quality"
    null_text: str = "monochrome, lowres, bad anatomy, worst quality, low quality"


class DecoderModule(LatentModule):
    """Trains the decoder; loss term `sdm` (eq 3), its condition the vector of the picture itself.

    Nothing of instructions is in it: pictures alone are needed. One that is fit for another denoiser, or the IP-Adapter
    variant, takes its place without any other part being trained again.

    Args:
        optimizer, backbone, weighting, timestep_exponent, seed, micro_batch_size: see `LatentModule`; of the backbone
            `vae` and `scheduler` alone.
        unet: folder or hub id of a text-to-image UNet, Stable Diffusion's or SDXL's.
        imagebind: folder or hub id of the encoder.
        variant: "projector" as in the paper, or "ip_adapter".
        text: folder or hub id of a pipeline with the text encoder that the IP-Adapter variant's texts need.
        second_text: the same of SDXL's second one.
        train_unet: what of the denoiser trains beside the projector.
        projector, ip_adapter: sizes of the variants.
        drop: share of samples without condition.
        target_latents: what the noise is added to, a "sample" of the posterior or its "mode".
        loss_weights: of `sdm`.
        gradient_checkpointing: recompute the UNet's activations in the backward.
        sampling: how `make_pipeline` draws.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
        ValueError: settings out of range.
    """

    needed_fields = ("target",)
    hub_task: ClassVar[str] = "image-to-image"
    new_parts: ClassVar[tuple[str, ...]] = ("projector",)
    exported_parts: ClassVar[Mapping[str, str]] = {"unet": "unet", "projector": "projector"}
    backbone_settings: ClassVar[BackboneSettings] = {
        "backbone": {"vae": VAE, "scheduler": SCHEDULER},
        "unet": {"unet": UNET},
        "imagebind": IMAGEBIND_PARTS,
        "text": {"prompt_encoder": TEXT_ENCODER, "prompt_tokenizer": TOKENIZER},
        "second_text": {"prompt_encoder_2": TEXT_ENCODER_2, "prompt_tokenizer_2": TOKENIZER_2},
    }

    def __init__(
        self,
        optimizer: OptimizerConfig,
        backbone: str | Backbone,
        unet: str | Backbone,
        imagebind: str | Backbone,
        variant: Literal["projector", "ip_adapter"] = "projector",
        text: str | Backbone | None = None,
        second_text: str | Backbone | None = None,
        train_unet: TrainedUNet = "full",
        projector: ProjectorSize | None = None,
        ip_adapter: IPAdapterSize | None = None,
        drop: float = 0.1,
        target_latents: Literal["mode", "sample"] = "sample",
        loss_weights: dict[str, float] | None = None,
        weighting: Weighting = "uniform",
        timestep_exponent: float = 1.0,
        gradient_checkpointing: bool = False,
        sampling: AnySampling | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        more = {"imagebind": imagebind, "text": text, "second_text": second_text}
        weights = loss_weights or {"sdm": 1.0}
        super().__init__(optimizer, weights, backbone, unet, weighting, timestep_exponent, seed, micro_batch_size, more)
        if not 0 <= drop <= 1:
            raise ValueError(f"drop: expected a share in [0, 1], found {drop}")
        self.unet = load_unet(
            self.origins["unet"],
            in_channels=self.vae.config.latent_channels,
            frozen=train_unet != "full",
            gradient_checkpointing=gradient_checkpointing,
        ).to(memory_format=torch.channels_last)
        check_compatible(self.unet, vae=self.vae)
        if train_unet == "cross_attention":
            for module in cross_attentions(self.unet).values():
                module.requires_grad_(True)
        self.encoder = load_encoder(self.origins["imagebind"], self.origins["imagebind_tokenizer"])
        if variant == "projector":
            self.projector: Any = self._plain_projector(projector or ProjectorSize())
        else:
            self.projector = self._ip_adapter(ip_adapter or IPAdapterSize())
        self.projector.install(self.unet)
        self.drop, self.target_latents, self.sampling = drop, target_latents, sampling
        self.features = LatentFeatures(self, self.feature_facts)
        self.features.declare(self.features.of_latents("target"), self.encoder.of_image("target"))

    def _plain_projector(self, size: ProjectorSize) -> EmbeddingProjector:
        widths = self.encoder.width, self.unet.config.cross_attention_dim, pooled_width(self.unet)
        return EmbeddingProjector(*widths, **asdict(size))

    def _ip_adapter(self, size: IPAdapterSize) -> IPAdapterProjector:
        texts = self._encoded([size.text, size.null_text])
        found = IPAdapterProjector(
            self.encoder.width,
            self.unet.config.cross_attention_dim,
            [module.to_q.out_features for module in cross_attentions(self.unet).values()],
            size.num_tokens,
            texts.tokens.shape[1],
            pooled_width(self.unet),
            size.scale,
            size.vector_norm,
        )
        found.set_texts(texts)
        return found

    def _encoded(self, texts: list[str]) -> TextCondition:
        """What the denoiser's own text encoders make of texts; they are not kept."""
        if "prompt_encoder" not in self.origins:
            raise ValueError("text: the IP-Adapter variant needs the denoiser's text encoder; name its pipeline")
        encoder = load_text_encoder(self.origins["prompt_encoder"])
        tokenizer = load_tokenizer(self.origins["prompt_tokenizer"])
        if pooled_width(self.unet) is None:
            return TextCondition(encode_text(encoder, tokenizer, texts)[0], None)
        if "prompt_encoder_2" not in self.origins:
            raise ValueError("second_text: SDXL's denoiser needs its second text encoder too; name its pipeline")
        encoders = encoder, load_second_text_encoder(self.origins["prompt_encoder_2"])
        return encode_by_two(encoders, (tokenizer, load_tokenizer(self.origins["prompt_tokenizer_2"])), texts)

    # Losses ------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Squared error of the denoiser's prediction under the picture's own vector (eq 3)."""
        return {"sdm": LossTerm(batch["has_target"].to(self.device), lambda: self._error(batch, draws))}

    def _error(self, batch: Batch, draws: Draws) -> Tensor:
        with torch.no_grad():
            vectors = one_vector(self.features, "vectors.target", batch, self.device)
            posterior = self.features.posterior(batch, "target")
            noise = None
            if self.target_latents == "sample":
                noise = draws.normal("posterior", posterior.mean.shape[1:]).to(posterior.mean.device)
            target = from_posterior(self.vae, posterior, noise)
        height, width = (side * reduction(self.vae) for side in target.shape[-2:])
        dropped = draws.bernoulli("drop", self.drop).to(self.device)
        given = self._with_drops(self.projector(vectors), dropped)
        return self.sdm(self.unet, target, conditioning(self.unet, given, (height, width)), draws)

    def _with_drops(self, given: TextCondition, dropped: Tensor) -> TextCondition:
        """The condition, and none where it is dropped; both are computed on every rank."""
        null = self.projector.null(len(dropped))
        tokens = torch.where(dropped[:, None, None], null.tokens, given.tokens)
        pooled = None if given.pooled is None else torch.where(dropped[:, None], null.pooled, given.pooled)
        return TextCondition(tokens, pooled)

    def feature_facts(self) -> dict[str, str]:
        """What cached features of the frozen parts depend on."""
        return self.fingerprints() | {"dtype": str(self.vae.dtype)}

    @property
    def images_with_features(self) -> frozenset[str]:
        """The target; the source is not looked at."""
        return frozenset({"source", "target"})

    # What others see ---------------------------------------------------------------------------------------------

    def named_backbones(self) -> dict[str, nn.Module]:
        """The frozen parts; a run stores what trains of the denoiser."""
        return super().named_backbones() | {"imagebind": self.encoder, "unet": self.unet}

    def make_pipeline(self) -> AnyToImageEditor:
        """Draws what is attached, or a text, as it is: without a prior."""
        decoder = Decoder(self.vae, self.unet, self.scheduler, self.projector)
        return AnyToImageEditor(self.encoder, decoder, sampling=self.sampling)

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """The decoder, and the encoder of its vectors."""
        return save_any_to_image(self.make_pipeline(), folder)
