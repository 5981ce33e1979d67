"""Training of the second stage: a text-conditional denoiser in the latent space of a frozen autoencoder."""

from typing import Literal

import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.backbones.diffusion import load_unet
from mmig.diffusion.conditioning import Conditioning, denoise, encode_text
from mmig.diffusion.fresh import UNetSize, fresh_unet
from mmig.diffusion.latents import LatentMemory, normalise
from mmig.diffusion.losses import noise_loss
from mmig.diffusion.process import Weighting
from mmig.editor import Editor
from mmig.methods.latent_diffusion.pipeline import TextToImagePipeline
from mmig.training.latent_module import LatentModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws

Side = Literal["source", "target", "both"]


class TextToImageModule(LatentModule):
    """Trains a UNet2DConditionModel to draw an image from its caption; loss term `sdm` (L_SDM).

    Args:
        optimizer, backbone, timestep_exponent, seed, micro_batch_size: see `LatentModule`.
        loss_weights: of `sdm`.
        unet: folder or hub id of a UNet to start from, or the sizes of a fresh one.
        caption_drop: part of the samples that train without text.
        side: which of a sample's images is drawn, with its caption; "both" takes either with equal chance.
        weighting: weight of the timesteps, see `NoiseProcess.weight`.
        latent_memory: most latents remembered across epochs (CPU memory: 4 kB each at 16x16x4); 0 encodes anew.
    """

    known_losses = ("sdm",)

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        backbone: str,
        unet: str | UNetSize,
        caption_drop: float = 0.1,
        side: Side = "both",
        weighting: Weighting = "uniform",
        timestep_exponent: float = 1.0,
        latent_memory: int = 0,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights, backbone, timestep_exponent, seed, micro_batch_size)
        self.caption_drop = caption_drop
        self.side: Side = side
        self.weighting: Weighting = weighting
        channels = self.vae.config.latent_channels
        if isinstance(unet, str):
            self.unet = load_unet(unet, in_channels=channels, frozen=False)
        else:
            self.unet = fresh_unet(unet, channels, channels, self.text_encoder.config.hidden_size)
        self.unet.to(memory_format=torch.channels_last)
        self._memory = LatentMemory(latent_memory)

    def losses(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Squared error of the denoiser's prediction, [B]."""
        images, captions, keys = self._captioned(batch, draws)
        clean = normalise(self.vae, self._memory.encode_unscaled(self.vae, images, keys))
        drop = draws.bernoulli("caption_drop", self.caption_drop)
        texts = ["" if dropped else caption for caption, dropped in zip(captions, drop.tolist(), strict=True)]
        with torch.no_grad():
            condition = Conditioning(tokens=encode_text(self.text_encoder, self.tokenizer, texts))
        timesteps = self.timesteps(draws).to(clean.device)
        noise = draws.normal("noise", clean.shape[1:]).to(clean.device)
        noisy = self.process.add_noise(clean, noise, timesteps)
        prediction = denoise(self.unet, noisy.contiguous(memory_format=torch.channels_last), timesteps, condition)
        target = self.process.target(clean, noise, timesteps)
        return {"sdm": noise_loss(prediction, target, self.process.weight(timesteps, self.weighting))}

    def loss_counts(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """1 for samples that have an image with a caption on the side that is trained."""
        source = batch["has_source"] & batch["has_source_caption"]
        target = batch["has_target"] & batch["has_target_caption"]
        has = {"source": source, "target": target, "both": source | target}[self.side]
        return {"sdm": has.to(self.device).float()}

    def _captioned(self, batch: Batch, draws: Draws) -> tuple[Tensor, list[str], list[str]]:
        """Image [B,3,H,W], caption and name of the image of each sample."""
        source = batch["has_source"] & batch["has_source_caption"]
        target = batch["has_target"] & batch["has_target_caption"]
        if self.side == "both":
            coin = draws.bernoulli("side", 0.5).to(target.device)
            chosen = torch.where(source & target, coin, target)
        else:
            chosen = torch.full_like(target, self.side == "target")
        images = torch.where(chosen.view(-1, 1, 1, 1), batch["target"], batch["source"])
        sides = ["target" if at_target else "source" for at_target in chosen.tolist()]
        captions = [batch[f"{side}_caption"][row] for row, side in enumerate(sides)]
        return images, captions, [f"{key}/{side}" for key, side in zip(batch["key"], sides, strict=True)]

    def make_pipeline(self) -> Editor:
        """Draws the target from its caption."""
        return TextToImagePipeline(self.vae, self.unet, self.text_encoder, self.tokenizer, self.scheduler)
