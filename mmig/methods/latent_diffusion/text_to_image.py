"""Training of the second stage: a text-conditional denoiser in the latent space of a frozen autoencoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.diffusion import check_compatible, load_unet
from mmig.backbones.named import Backbone, BackboneSettings
from mmig.backbones.parts import VAE, BackboneError
from mmig.cache.latent import LatentFeatures
from mmig.checkpoints.folders import write_editor
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.fresh import UNetSize, fresh_unet
from mmig.diffusion.latents import encode_unscaled, normalise, reduction, usual_resolution
from mmig.diffusion.process import Weighting
from mmig.diffusion.saving import save_pipeline
from mmig.editor import Editor
from mmig.methods.latent_diffusion.pipeline import TextToImagePipeline
from mmig.training.latent_module import LatentModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

Side = Literal["source", "target", "both"]
OPENED_BY = "mmig.methods.latent_diffusion.pipeline.open_editor"
ABOUT = """Text-to-image latent diffusion (Rombach et al. 2022).

## Use

```python
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("{name}")
pipe("a red circle on a blue ground").images[0].save("out.png")
```"""
"""What a folder's card says."""


class TextToImageModule(LatentModule):
    """Trains a UNet2DConditionModel to draw an image from its caption; loss term `sdm` (L_SDM).

    Args:
        optimizer, backbone, weighting, timestep_exponent, seed, micro_batch_size: see `LatentModule`.
        loss_weights: of `sdm`.
        unet: folder or hub id of a UNet to start from, or the sizes of a fresh one.
        vae: folder or hub id of another autoencoder than the backbone's.
        resolution: side in pixels of the images, which UNet, autoencoder and data must be made for; None takes any.
        caption_drop: part of the samples that train without text.
        side: which of a sample's images is drawn, with its caption; "both" takes either with equal chance.

    Raises:
        BackboneError: a part is missing or broken, or was made for another resolution.
    """

    hub_task: ClassVar[str] = "text-to-image"
    backbone_settings: ClassVar[BackboneSettings] = {**LatentModule.backbone_settings, "vae": {"vae": VAE}}

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        backbone: str | Backbone,
        unet: str | Backbone | UNetSize,
        vae: str | Backbone | None = None,
        resolution: int | None = None,
        caption_drop: float = 0.1,
        side: Side = "both",
        weighting: Weighting = "uniform",
        timestep_exponent: float = 1.0,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            *(optimizer, loss_weights, backbone, unet, weighting, timestep_exponent, seed, micro_batch_size),
            {"vae": vae},
        )
        self.resolution = resolution
        self.caption_drop = caption_drop
        self.side: Side = side
        channels = self.vae.config.latent_channels
        if "unet" in self.origins:
            self.unet = load_unet(self.origins["unet"], in_channels=channels, frozen=False)
        else:
            self.unet = fresh_unet(unet, channels, channels, self.text_encoder.config.hidden_size)
        self.unet.to(memory_format=torch.channels_last)
        check_compatible(self.unet, self.text_encoder, self.vae, self.tokenizer)
        check_resolution(self.vae, self.unet, resolution)
        self.features = LatentFeatures(self, self.feature_facts)
        for field in ("source", "target") if side == "both" else (side,):
            self.features.declare(self.features.of_latents(field), self.features.of_text(f"{field}_caption"))

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Squared error of the denoiser's prediction; samples with a captioned image on the trained side count."""
        source, target = self._captioned(batch)
        counts = {"source": source, "target": target, "both": source | target}[self.side].to(self.device)
        return {"sdm": LossTerm(counts, lambda: self.sdm(self.unet, *self._conditioned_latents(batch, draws), draws))}

    @torch.no_grad()
    def _conditioned_latents(self, batch: Batch, draws: Draws) -> tuple[Tensor, Conditioning]:
        """Normalised latents of one image a sample, and its caption."""
        at_target = self._at_target(batch, draws)
        drop = draws.bernoulli("caption_drop", self.caption_drop).tolist()
        sides = ["target" if chosen else "source" for chosen in at_target.tolist()]
        tokens, _ = self.features.text(
            batch, ["" if dropped else f"{side}_caption" for side, dropped in zip(sides, drop, strict=True)]
        )
        latents = normalise(self.vae, self._modes(batch, at_target))
        found = latents.shape[-1] * reduction(self.vae)
        if self.resolution not in (None, found):
            raise ValueError(
                f"data: expected images of {self.resolution} pixels, as model.init_args.resolution says, found {found} "
                f"pixels; give --data.init_args.resolution {self.resolution}"
            )
        return latents, Conditioning(tokens)

    def _modes(self, batch: Batch, at_target: Tensor) -> Tensor:
        """Posterior mode of the target where bool [B] says so, else of the source, [B,c,h,w]."""
        if self.side != "both":
            return self.features.posterior(batch, self.side).mode()
        if "source" in batch and "target" in batch:  # only one of them is encoded
            images = torch.where(at_target.view(-1, 1, 1, 1), batch["target"], batch["source"])
            return encode_unscaled(self.vae, images)
        source, target = (self.features.posterior(batch, field).mode() for field in ("source", "target"))
        return torch.where(at_target.to(target.device).view(-1, 1, 1, 1), target, source)

    def _captioned(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which sources and which targets have a caption, bool [B] each."""
        source = batch["has_source"] & batch["has_source_caption"]
        return source, batch["has_target"] & batch["has_target_caption"]

    def _at_target(self, batch: Batch, draws: Draws) -> Tensor:
        """Samples of which the target is drawn, not the source, bool [B]."""
        source, target = self._captioned(batch)
        if self.side != "both":
            return torch.full_like(target, self.side == "target")
        return torch.where(source & target, draws.bernoulli("side", 0.5).to(target.device), target)

    @property
    def images_with_features(self) -> frozenset[str]:
        """Those of the trained side."""
        return frozenset({"source", "target"} if self.side == "both" else {self.side})

    def make_pipeline(self) -> Editor:
        """Draws the target from its caption."""
        return TextToImagePipeline(self.vae, self.unet, self.text_encoder, self.tokenizer, self.scheduler)

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """The whole pipeline, for diffusers' `StableDiffusionPipeline`."""
        save_pipeline(folder, "StableDiffusionPipeline", self.pipeline_parts)
        write_editor(folder, OPENED_BY)
        return ABOUT


def check_resolution(vae: nn.Module, unet: nn.Module, resolution: int | None) -> None:
    """Raise BackboneError where a UNet and the factor of an autoencoder are made for images of another side, pixels."""
    found, factor = usual_resolution(vae, unet), reduction(vae)
    if None not in (resolution, found) and found != resolution:
        raise BackboneError(
            f"unet: expected one for {resolution} pixels, as model.init_args.resolution says, found one for {found}: "
            f"latents of {found // factor} (sample_size) at the factor {factor} of the autoencoder; give another unet, "
            "vae or resolution"
        )
