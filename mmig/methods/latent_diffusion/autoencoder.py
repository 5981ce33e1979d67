"""Training of the first stage: a KL autoencoder, or the decoder of a pretrained one; without adversarial loss, which
`adversarial.py` adds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.diffusion import load_vae
from mmig.backbones.named import Backbone, BackboneSettings
from mmig.backbones.parts import VAE
from mmig.checkpoints.folders import write_editor
from mmig.diffusion.saving import save_parts
from mmig.editor import Editor
from mmig.evaluation.editors import Reconstruction
from mmig.methods.latent_diffusion.scale import measure_scale, validation_batches
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

INITIAL_LOG_VARIANCE = -6.0
"""Nearly deterministic: noise of unit variance would drown the latents until the encoder has grown."""
OPENED_BY = "mmig.methods.latent_diffusion.reconstruction.open_editor"
ABOUT = """{kind}, as diffusers' `AutoencoderKL`. {scale}

## Use

```python
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("{name}", subfolder="vae")
```

Or as a pretrained part of a run: the folder is what `vae` and `backbone` settings take."""
"""What a folder's card says; `kind` is what was trained, `scale` where its `scaling_factor` comes from."""


class Reconstructed(NamedTuple):
    """What the autoencoder made of images.

    Attributes:
        images: [B,3,H,W] in [-1,1].
        output: of a sample of the posterior, float32 of the same shape; not clamped.
        posterior: of the latents.
    """

    images: Tensor
    output: Tensor
    posterior: "DiagonalGaussianDistribution"

    @property
    def error(self) -> Tensor:
        """Output minus image, [B,3HW]."""
        return (self.output - self.images).flatten(1)


class ReconstructionModule(TrainingModule):
    """What trains a diffusers AutoencoderKL on one image a sample.

    Loss terms: `reconstruction`, mean |image - reconstruction|; `squared`, mean of its square, which makes large errors
    (the colour of a small object) count more; and `kl`, the KL divergence of the posterior from the standard normal,
    summed over the latents and divided by the number of image values. With the weights 1, 0 and 1e-6 their sum is that
    of Rombach et al. (sums over a sample, without LPIPS and GAN) up to one constant factor.
    """

    known_losses = ("reconstruction", "squared", "kl")
    exported_parts: ClassVar[Mapping[str, str]] = {"vae": "vae"}
    hub_task: ClassVar[str] = ""
    vae: "AutoencoderKL"

    def images(self, batch: Batch, draws: Draws) -> Tensor:
        """The image of each sample to reconstruct, [B,3,H,W]: source or target, with equal chance where both exist."""
        return drawn_images(batch, draws)

    def counted(self, batch: Batch) -> Tensor:
        """Samples that have such an image, bool [B]."""
        return batch["has_source"] | batch["has_target"]

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Errors of the reconstruction and KL of one image a sample: those that have a weight."""
        counts = self.counted(batch).to(self.device)
        values = self.values(cache(lambda: self._reconstructed(batch, draws)))
        return {name: LossTerm(counts, values[name]) for name in self.loss_weights}

    def values(self, made: Callable[[], Reconstructed]) -> dict[str, Callable[[], Tensor]]:
        """How each term is computed, [B], by its name.

        Args:
            made: gives the reconstructions; they are computed when it is first called.
        """
        return {
            "reconstruction": lambda: made().error.abs().mean(dim=1),
            "squared": lambda: made().error.square().mean(dim=1),
            "kl": lambda: made().posterior.kl() / made().images[0].numel(),
        }

    def _reconstructed(self, batch: Batch, draws: Draws) -> Reconstructed:
        images = self.images(batch, draws).contiguous(memory_format=torch.channels_last)
        posterior = self.vae.encode(images).latent_dist
        noise = draws.normal("posterior", posterior.mean.shape[1:]).to(images.device)
        output = self.vae.decode(posterior.mean + posterior.std * noise).sample
        return Reconstructed(images, output.float(), posterior)

    def _save(self, folder: Path) -> None:
        save_parts(folder, {"vae": self.vae})
        write_editor(folder, OPENED_BY)

    def make_pipeline(self) -> Editor:
        """Gives the source back as the autoencoder can draw it: what its latents keep of a picture."""
        return Reconstruction(self.vae, "source")


class AutoencoderModule(ReconstructionModule):
    """Trains a new autoencoder on the images of the stream, source and target evenly.

    Args:
        optimizer: AdamW and its schedule.
        loss_weights: of `reconstruction`, `squared` and `kl`.
        block_out_channels: width of each resolution; n entries reduce the sides by 2^(n-1).
        layers_per_block: residual blocks a resolution in the encoder (one more in the decoder).
        latent_channels: channels of the latents.
        norm_num_groups: groups of every group norm; must divide every width.
        sample_size: side of the training images in pixels, stored in the config.
        train_encoder: False keeps the latents as they are and trains the decoder alone (with --init_from).
        initial_log_variance: of the posterior before training; None leaves it as the library draws it, about 0.
        seed: seed of every draw of the run.
        micro_batch_size: samples a forward and backward.
    """

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        block_out_channels: Sequence[int] = (128, 256, 512),
        layers_per_block: int = 2,
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 256,
        train_encoder: bool = True,
        initial_log_variance: float | None = INITIAL_LOG_VARIANCE,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        from diffusers import AutoencoderKL

        super().__init__(optimizer, loss_weights, seed, micro_batch_size)
        stages = len(block_out_channels)
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * stages,
            up_block_types=("UpDecoderBlock2D",) * stages,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            sample_size=sample_size,
            scaling_factor=None,  # not measured yet
        ).to(memory_format=torch.channels_last)
        if initial_log_variance is not None:
            with torch.no_grad():
                self.vae.quant_conv.bias[latent_channels:].fill_(initial_log_variance)
        for part in (self.vae.encoder, self.vae.quant_conv):
            part.requires_grad_(train_encoder)

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """The autoencoder below `folder`/vae; its latent scale is measured on the validation split of `config`'s data.

        Raises:
            ValueError: no data, or too few images.
        """
        scale, images = measure_scale(self.vae, validation_batches(config))
        self.vae.register_to_config(scaling_factor=round(scale, 5))
        self._save(folder)
        about = ABOUT.replace("{kind}", "The autoencoder of latent diffusion models, trained from scratch")
        return about.replace("{scale}", f"Its `scaling_factor`, {scale:.5f}, was measured on {images:,} images.")


class FineTuneDecoder(ReconstructionModule):
    """Trains the decoder of a pretrained autoencoder on the targets of the stream.

    The latents stay as they are, and with them every denoiser of theirs: a fine-tuned denoiser can ask for pictures
    that the decoder never saw. Export it with `python -m mmig.run.export`, then name that folder in
    `backbones.vae`.

    Args:
        optimizer: AdamW and its schedule.
        loss_weights: of `reconstruction` and `squared`.
        vae: hub id or folder of the autoencoder, its own or a pipeline's.
        seed: seed of every draw of the run.
        micro_batch_size: samples a forward and backward.

    Raises:
        BackboneError: no autoencoder there.
    """

    needed_fields = ("target",)
    backbone_settings: ClassVar[BackboneSettings] = {"vae": {"vae": VAE}}

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        vae: str | Backbone,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights, seed, micro_batch_size)
        self.name_backbones(vae=vae)
        self.vae = load_vae(self.origins["vae"]).to(memory_format=torch.channels_last)
        for part in (self.vae.decoder, self.vae.post_quant_conv):
            if part is not None:
                part.requires_grad_(True).train()

    def images(self, batch: Batch, draws: Draws) -> Tensor:
        """The targets, [B,3,H,W]."""
        return batch["target"]

    def counted(self, batch: Batch) -> Tensor:
        """Samples that have a target, bool [B]."""
        return batch["has_target"]

    def named_backbones(self) -> dict[str, nn.Module]:
        """The autoencoder, whose encoder stays frozen."""
        return {"vae": self.vae}

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """The autoencoder with its new decoder below `folder`/vae; latents and their scale are what they were."""
        self._save(folder)
        about = ABOUT.replace("{kind}", "A pretrained autoencoder with a fine-tuned decoder")
        return about.replace("{scale}", "Its latents are those that it had: every denoiser of theirs still fits.")


def drawn_images(batch: Batch, draws: Draws) -> Tensor:
    """One image a sample, source or target with equal chance where both are there, [B,3,H,W]."""
    target = draws.bernoulli("image", 0.5).to(batch["target"].device)
    target = torch.where(batch["has_source"] & batch["has_target"], target, batch["has_target"])
    return torch.where(target.view(-1, 1, 1, 1), batch["target"], batch["source"])
