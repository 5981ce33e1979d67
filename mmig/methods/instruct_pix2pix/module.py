"""Training of InstructPix2Pix: source latents on extra input channels, text through cross-attention."""

from typing import Literal

import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.backbones.diffusion import load_unet
from mmig.cache.facts import backbone_facts
from mmig.cache.frozen import FrozenFeatures
from mmig.diffusion.conditioning import Conditioning, condition_drops, denoise
from mmig.diffusion.fresh import UNetSize, fresh_unet
from mmig.diffusion.latents import LatentMemory, from_posterior, normalise
from mmig.diffusion.losses import noise_loss
from mmig.diffusion.process import Weighting
from mmig.editor import Editor
from mmig.methods.instruct_pix2pix.pipeline import EditSampling, InstructPix2PixPipeline
from mmig.methods.instruct_pix2pix.texts import TEXT_FIELDS, TextSource, condition_fields
from mmig.training.latent_module import LatentModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws

Latents = Literal["mode", "sample"]


class InstructPix2PixModule(LatentModule):
    """Trains an 8-channel UNet to edit the source by a text; loss term `sdm` (L_SDM).

    The image condition is the mode of the source's posterior, unscaled, as published. One uniform draw u a sample
    drops conditions: u < 2d the text, d <= u < 3d the image, so that d lose the text alone, d both and d the image.

    Args:
        optimizer, backbone, timestep_exponent, seed, micro_batch_size: see `LatentModule`.
        loss_weights: of `sdm`.
        unet: folder or hub id of the UNet to start from, whose 4 input channels are widened to 8 (new ones zero, bias
            kept); or the sizes of a fresh one.
        text: which text the UNet is given: the instruction, the response, the target caption, or one of the three,
            drawn evenly a sample ("mixed").
        drop: d above.
        generation: part of the remaining samples that train text-to-image: no source, the target caption. The first 4
            input channels are then a text-to-image UNet (see `export`). Not in the published recipe.
        target_latents: what the noise is added to: a "sample" of the target's posterior (published) or its "mode".
        weighting: weight of the timesteps, see `NoiseProcess.weight`.
        latent_memory: most latents remembered across epochs, mode only; 0 encodes anew.
        gradient_checkpointing: recompute the UNet's activations in the backward.
        sampling: how `make_pipeline` samples.
    """

    known_losses = ("sdm",)

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        backbone: str,
        unet: str | UNetSize,
        text: TextSource = "instruction",
        drop: float = 0.05,
        generation: float = 0.0,
        target_latents: Latents = "sample",
        weighting: Weighting = "uniform",
        timestep_exponent: float = 1.0,
        latent_memory: int = 0,
        gradient_checkpointing: bool = False,
        sampling: EditSampling | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights, backbone, timestep_exponent, seed, micro_batch_size)
        if latent_memory and target_latents == "sample":
            raise ValueError("latent_memory keeps posterior modes: set target_latents to mode, or latent_memory to 0")
        channels = self.vae.config.latent_channels
        if isinstance(unet, str):
            self.unet = load_unet(
                unet, in_channels=2 * channels, frozen=False, gradient_checkpointing=gradient_checkpointing
            )
        else:
            self.unet = fresh_unet(unet, 2 * channels, channels, self.text_encoder.config.hidden_size)
        self.unet.to(memory_format=torch.channels_last)
        self.text: TextSource = text
        self.sampling = sampling
        self.drop = drop
        self.generation = generation
        self.target_latents: Latents = target_latents
        self.weighting: Weighting = weighting
        self._memory = LatentMemory(latent_memory)
        self.features = FrozenFeatures(self)
        self.features.use_cached(self._frozen_features(), self.feature_facts)

    def losses(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Squared error of the denoiser's prediction, [B]."""
        clean, image_latents = self._latents(batch, draws)
        fields, without_image = self._fields(batch, draws)
        with torch.no_grad():
            tokens, _ = self.features.text(batch, fields)
        drop_image = without_image.to(clean.device) | ~batch["has_source"].to(clean.device)
        image_latents = image_latents.masked_fill(drop_image.view(-1, 1, 1, 1), 0.0)
        timesteps = self.timesteps(draws).to(clean.device)
        noise = draws.normal("noise", clean.shape[1:]).to(clean.device)
        noisy = self.process.add_noise(clean, noise, timesteps)
        prediction = denoise(self.unet, noisy, timesteps, Conditioning(tokens, image_latents=image_latents))
        target = self.process.target(clean, noise, timesteps)
        return {"sdm": noise_loss(prediction, target, self.process.weight(timesteps, self.weighting))}

    def _fields(self, batch: Batch, draws: Draws) -> tuple[list[str], Tensor]:
        """Which text of each sample after the drops ("": none), and whether its image is dropped, bool [B]."""
        drop_text, drop_image = condition_drops(draws.uniform("condition_drop"), self.drop)
        generate = draws.bernoulli("generation", self.generation) & ~drop_text & ~drop_image
        fields = condition_fields(batch, self.text, draws)
        for row, (dropped, generated) in enumerate(zip(drop_text.tolist(), generate.tolist(), strict=True)):
            fields[row] = "" if dropped else "target_caption" if generated else fields[row]
        return fields, drop_image | generate

    def loss_counts(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """1 for samples that have a target."""
        return {"sdm": batch["has_target"].to(self.device).float()}

    @torch.no_grad()
    def _latents(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Normalised target latents and raw source latents, [B,c,h,w] each."""
        source = self._mode(batch, "source")
        if self.target_latents == "mode":
            return normalise(self.vae, self._mode(batch, "target")), source
        posterior = self.features.posterior(batch, "target")
        noise = draws.normal("posterior", posterior.mean.shape[1:]).to(source.device)
        return from_posterior(self.vae, posterior, noise), source

    def _mode(self, batch: Batch, field: str) -> Tensor:
        """Mode of the posterior of an image field, [B,c,h,w]."""
        if self._memory.capacity == 0 or field not in batch:  # not decoded where its posterior is cached
            return self.features.posterior(batch, field).mode()
        keys = [f"{key}/{field}" for key in batch["key"]]
        return self._memory.encode_unscaled(self.vae, batch[field], keys)  # type: ignore[literal-required]

    def _frozen_features(self) -> list[str]:
        """Names of the features that may be cached: both posteriors, and every text that may be chosen."""
        fields = {*(TEXT_FIELDS if self.text == "mixed" else (self.text,))}
        if self.generation > 0:
            fields.add("target_caption")
        return ["latents.source", "latents.target", *(f"text.{field}" for field in sorted(fields))]

    def feature_facts(self) -> dict[str, str]:
        """What the cached features depend on."""
        facts = backbone_facts(self.describe_backbones())
        return facts | {"max_text_chunks": "1", "dtype": str(self.vae.dtype)}

    @property
    def images_with_features(self) -> frozenset[str]:
        """Both."""
        return frozenset({"source", "target"})

    def make_pipeline(self) -> Editor:
        """Edits the source by the text that the UNet was trained on (the instruction where it was `mixed`)."""
        return InstructPix2PixPipeline(
            self.vae,
            self.unet,
            self.text_encoder,
            self.tokenizer,
            self.scheduler,
            text="instruction" if self.text == "mixed" else self.text,
            sampling=self.sampling,
        )
