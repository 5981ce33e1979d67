"""Training of the first stage as published: reconstruction, LPIPS and KL, then a discriminator against it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import ClassVar

from torch import Tensor, nn

from mmig.backbones.named import Backbone, BackboneSettings
from mmig.methods.latent_diffusion.autoencoder import INITIAL_LOG_VARIANCE, AutoencoderModule, Reconstructed
from mmig.methods.latent_diffusion.discriminator import (
    DiscriminatorSize,
    PatchDiscriminator,
    generator_loss,
    hinge_loss,
)
from mmig.methods.latent_diffusion.perceptual import PERCEPTUAL, load_perceptual
from mmig.training.optim import OptimizerConfig
from mmig.training.turns import ComputedWeight, Turn

LAST_LAYER = "vae.decoder.conv_out.weight"
"""What the adaptive weight compares gradients by."""
LARGEST_RATIO = 1e4
"""Of the adaptive weight, where the errors are sums over a sample."""
ADVERSARIAL = ("gan", "hinge")


class AdversarialAutoencoder(AutoencoderModule):
    """Trains a new autoencoder with LPIPS and against a discriminator (Rombach et al. 2022, eq 25; Esser et al. 2021).

    Further loss terms: `lpips` of image and reconstruction; `gan`, minus the discriminator's answer to the
    reconstruction; `hinge`, the discriminator's own loss. The published sums over a sample, divided by its number of
    values n = 3 H W, are these with the weights 1 (reconstruction), 1 (lpips), 1e-6 (kl), 0.5 (gan) and 1 (hinge):
    there LPIPS is added to each value's error, and the weight of `gan` is relative to the gradient of the rest.
    The published log variance of the error is in no optimiser and stays 0; it is not here.

    Args:
        optimizer: of both turns, `autoencoder` and `discriminator`.
        loss_weights: of `reconstruction`, `squared`, `kl`, `lpips`, and of `gan` and `hinge` together or not at all.
        perceptual: folder or hub id of the backbone of `lpips`.
        discriminator: its sizes.
        discriminator_start: first step of the discriminator and of `gan`, 0 being the run's first.
        adaptive: whether the weight of `gan` is its fixed one times |gradient of the other terms| / |its gradient| by
            the decoder's last layer.
        block_out_channels, layers_per_block, latent_channels, norm_num_groups, sample_size, train_encoder,
            initial_log_variance, seed, micro_batch_size: see `AutoencoderModule`.

    Raises:
        ValueError: a weight of `gan` without one of `hinge` or the other way round, of `lpips` without `perceptual`, or
            of no other term.
        BackboneError: no such backbone.
    """

    known_losses = (*AutoencoderModule.known_losses, "lpips", *ADVERSARIAL)
    new_parts = ("discriminator",)
    not_averaged = ("discriminator",)
    backbone_settings: ClassVar[BackboneSettings] = {"perceptual": {"perceptual": PERCEPTUAL}}

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        perceptual: str | Backbone | None = None,
        discriminator: DiscriminatorSize | None = None,
        discriminator_start: int = 0,
        adaptive: bool = True,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 256,
        train_encoder: bool = True,
        initial_log_variance: float | None = INITIAL_LOG_VARIANCE,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            *(optimizer, loss_weights, block_out_channels, layers_per_block, latent_channels, norm_num_groups),
            *(sample_size, train_encoder, initial_log_variance, seed, micro_batch_size),
        )
        _check(loss_weights, perceptual)
        self.name_backbones(perceptual=perceptual)
        self.discriminator_start, self.adaptive = discriminator_start, adaptive
        self.largest_weight = LARGEST_RATIO / (3 * sample_size**2)  # as our errors are means over a sample
        self.perceptual = None if perceptual is None else load_perceptual(self.origins["perceptual"])
        is_adversarial = ADVERSARIAL[0] in loss_weights
        self.discriminator = PatchDiscriminator(discriminator or DiscriminatorSize()) if is_adversarial else None

    def turns(self) -> tuple[Turn, ...]:
        """Autoencoder and discriminator; one alone without the adversarial terms."""
        if self.discriminator is None:
            return (Turn("autoencoder"),)
        rule = ComputedWeight(LAST_LAYER, maximum=self.largest_weight)
        return (
            Turn("autoencoder", computed_weights={"gan": rule} if self.adaptive else {}),
            Turn("discriminator", ("discriminator",), ("hinge",), start=self.discriminator_start),
        )

    def weights_at(self, step: int) -> Mapping[str, float]:
        """`gan` counts from the discriminator's first step on."""
        begun = self.discriminator is None or step >= self.discriminator_start
        return self.loss_weights if begun else self.loss_weights | {"gan": 0.0}

    def values(self, made: Callable[[], Reconstructed]) -> dict[str, Callable[[], Tensor]]:
        """LPIPS and the adversarial terms too; one answer to the reconstructions serves both of these."""
        values, perceptual, discriminator = super().values(made), self.perceptual, self.discriminator
        if perceptual is not None:
            values["lpips"] = lambda: perceptual(made().output, made().images)
        if discriminator is not None:
            answers = cache(lambda: discriminator(made().output))
            values["gan"] = lambda: generator_loss(answers())
            values["hinge"] = lambda: hinge_loss(discriminator(made().images), answers())
        return values

    def named_backbones(self) -> dict[str, nn.Module]:
        """LPIPS."""
        return {} if self.perceptual is None else {"perceptual": self.perceptual}


def _check(loss_weights: Mapping[str, float], perceptual: object) -> None:
    """Raise ValueError for terms that go with something else which is not there."""
    given = [name for name in ADVERSARIAL if name in loss_weights]
    if len(given) == 1:
        raise ValueError(
            f"loss_weights: expected both of {' and '.join(ADVERSARIAL)} or neither, found {given[0]} alone; the one "
            "is for the autoencoder, the other for its discriminator"
        )
    if "lpips" in loss_weights and perceptual is None:
        raise ValueError(
            "perceptual: expected a folder or hub id of LPIPS' backbone (timm/vgg16.tv_in1k) for the loss 'lpips', "
            "found none; give it, or leave lpips out of loss_weights"
        )
