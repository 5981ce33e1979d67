"""What trains a denoiser in the latent space of a published pipeline, all of whose other parts stay frozen."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmig.backbones.diffusion import (
    check_scale,
    load_scheduler,
    load_second_text_encoder,
    load_text_encoder,
    load_tokenizer,
    load_vae,
)
from mmig.backbones.named import Backbone, BackboneSettings
from mmig.backbones.parts import PIPELINE, SDXL_TEXT_ENCODER, SDXL_TOKENIZER, UNET
from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.fresh import UNetSize
from mmig.diffusion.losses import noise_loss
from mmig.diffusion.problem import denoising_problem
from mmig.diffusion.process import NoiseProcess, Weighting
from mmig.diffusion.reading import clip_reader
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws


class LatentModule(TrainingModule):
    """Loads the frozen parts; the denoiser is the subclass's, and its one loss term `sdm`.

    Args:
        optimizer, loss_weights, seed, micro_batch_size: see `TrainingModule`.
        backbone: pipeline folder or hub id with `vae`, `text_encoder`, `tokenizer` and `scheduler`.
        unet: what the denoiser starts from, where it is no fresh one; the run stores it whole.
        weighting: weight of the timesteps, see `NoiseProcess.weight`.
        timestep_exponent: see `NoiseProcess.sample_timesteps`; 1 is uniform.
        more: other settings of the subclass that name backbones (`name_backbones`).

    Raises:
        BackboneError: a part is missing or broken, or the latent scale of the autoencoder was not measured.

    Attributes:
        text_encoder, tokenizer: None where `backbone_settings` does not name them.
        text_encoder_2, tokenizer_2: the second ones of SDXL's form, where the settings name them and the backbone has
            them.
        reader: of texts by them.
    """

    known_losses = ("sdm",)
    exported_parts: ClassVar[Mapping[str, str]] = {"unet": "unet"}
    backbone_settings: ClassVar[BackboneSettings] = {
        "backbone": {name: part for name, part in PIPELINE.items() if part is not UNET},
        "unet": {"unet": UNET},
    }

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        backbone: str | Backbone,
        unet: str | Backbone | UNetSize | None = None,
        weighting: Weighting = "uniform",
        timestep_exponent: float = 1.0,
        seed: int = 0,
        micro_batch_size: int | None = None,
        more: Mapping[str, str | Backbone | None] = MappingProxyType({}),
    ) -> None:
        super().__init__(optimizer, loss_weights, seed, micro_batch_size)
        self.name_backbones(backbone=backbone, unet=unet, **more)
        self.weighting: Weighting = weighting
        self.timestep_exponent = timestep_exponent
        self.vae = load_vae(self.origins["vae"])
        check_scale(self.vae)
        found = self.origins
        self.text_encoder = load_text_encoder(found["text_encoder"]) if "text_encoder" in found else None
        self.tokenizer = load_tokenizer(found["tokenizer"]) if "tokenizer" in found else None
        second = SDXL_TEXT_ENCODER.name in found
        self.text_encoder_2 = load_second_text_encoder(found[SDXL_TEXT_ENCODER.name]) if second else None
        self.tokenizer_2 = load_tokenizer(found[SDXL_TOKENIZER.name]) if second else None
        self.reader = clip_reader(self)
        self.scheduler = load_scheduler(self.origins["scheduler"])
        self.process = NoiseProcess.from_scheduler(self.scheduler)

    def timesteps(self, draws: Draws) -> Tensor:
        """Timestep of each sample, [B]."""
        return self.process.sample_timesteps(draws.uniform("timestep"), self.timestep_exponent)

    def sdm(
        self,
        unet: nn.Module,
        clean: Tensor,
        condition: Conditioning,
        draws: Draws,
        positions: Tensor | None = None,
    ) -> Tensor:
        """L_SDM (MMIG eq 14) of a denoiser, weighted by timestep and by position (`noise_loss`), [B].

        Args:
            unet: the denoiser. clean: latents [B,c,h,w]. condition: of each. draws: of the batch.
            positions: weights [B,1,h,w].
        """
        noise = draws.normal("noise", clean.shape[1:])
        problem = denoising_problem(self.process, clean, noise, self.timesteps(draws), condition)
        noisy = problem.noisy.contiguous(memory_format=torch.channels_last)
        prediction = denoise(unet, noisy, problem.timesteps, condition)
        weight = self.process.weight(problem.timesteps, self.weighting)
        return noise_loss(prediction, problem.target, weight, positions)

    def named_backbones(self) -> dict[str, nn.Module]:
        """The frozen autoencoder and, where there are such, the text encoders."""
        parts = {name: getattr(self, name) for name in ("vae", "text_encoder", "text_encoder_2")}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def pipeline_parts(self) -> dict[str, Any]:
        """What a pipeline of diffusers takes of it, by name; the denoiser, `unet`, is the subclass's."""
        names = ("unet", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
        parts = {name: getattr(self, name) for name in names}
        return {name: part for name, part in parts.items() if part is not None}

    def feature_facts(self) -> dict[str, str]:
        """What cached features of the frozen parts depend on."""
        return self.fingerprints() | {"max_text_chunks": "1", "dtype": str(self.vae.dtype)}
