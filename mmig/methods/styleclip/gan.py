"""Training of a generator on small or large pictures: StyleGAN2 with adaptive augmentation (Karras et al. 2020)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.base.values import check_values
from mmig.diffusion.saving import save_parts
from mmig.methods.styleclip.augmentation import NUM_DRAWS, adapted, augment
from mmig.methods.styleclip.discriminator import Discriminator
from mmig.methods.styleclip.gan_losses import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mixed,
    path_lengths,
    path_penalty,
    running_mean,
)
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm
from mmig.training.turns import Turn

ABOUT = """A generator of StyleGAN2, `generator/`, in this repository's layout; weights have the names of NVIDIA's \
PyTorch code.

## Use

As `generator` of a mapper, of latent optimisation and of global directions (docs/styleclip.md), or

```python
from mmig.methods.styleclip.loading import load_generator

generator = load_generator("{name}")
images = generator(generator.codes(torch.randn(4, generator.config.z_dim), truncation=0.7))
```"""
"""What a folder's card says; `name` is the folder's."""


@dataclass(frozen=True)
class AdaptiveAugmentation:
    """How p is steered; the defaults are the paper's.

    Attributes:
        target: r_t, the mean sign of D(x) that is aimed at.
        span: pictures in which p may go from 0 to 1.
        every: steps between changes of p.
        fixed: p that stays, instead of all this; 0 augments nothing.
    """

    target: float = 0.6
    span: float = 500_000
    every: int = 4
    fixed: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        one_or_more = (1, float("inf"))
        check_values(self, "augmentation", target=(-1, 1), span=one_or_more, every=one_or_more, fixed=(0, 1))


class StyleGANModule(TrainingModule):
    """Trains generator and discriminator against each other on the targets of the stream.

    Loss terms: `generator` and `discriminator`, non-saturating; `r1`, the squared gradient of the score by a real
    picture as D sees it, in every `r1_every`th step with as much more weight (its weight is gamma / 2); `path_length`,
    likewise in every `path_every`th. The paper moves the weights by these in steps of their own; here they join the
    losses of their step. Adam's beta_1 must be 0.

    Args:
        optimizer: of both turns, `generator` and `discriminator`.
        loss_weights: of the terms; None: 1, 2, 1 and 5.
        resolution, z_dim, w_dim, num_mapping_layers, channel_base, channel_max, margin: see `StyleGenerator`; the
            discriminator sees pictures without their margin.
        deviation_group: samples whose deviation the discriminator is told; a divisor of what a rank sees at once makes
            a step the same on any number of ranks.
        mixing: chance that a picture has two codes.
        r1_every, path_every: steps.
        augmentation: how p is steered.
        seed, micro_batch_size: see `TrainingModule`.

    Raises:
        ValueError: a value that cannot be.
    """

    needed_fields = ("target",)
    known_losses = ("generator", "path_length", "discriminator", "r1")
    not_averaged = ("discriminator",)
    exported_parts: ClassVar[Mapping[str, str]] = {"generator": "generator"}
    hub_task: ClassVar[str] = ""
    ada_probability: Tensor
    ada_seen: Tensor
    path_mean: Tensor

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float] | None = None,
        resolution: int = 1024,
        z_dim: int = 512,
        w_dim: int = 512,
        num_mapping_layers: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
        deviation_group: int = 4,
        mixing: float = 0.9,
        r1_every: int = 16,
        path_every: int = 4,
        margin: int = 0,
        augmentation: AdaptiveAugmentation | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        weights = loss_weights or dict(zip(self.known_losses, (1.0, 2.0, 1.0, 5.0), strict=True))
        super().__init__(optimizer, weights, seed, micro_batch_size)
        if min(r1_every, path_every, deviation_group) < 1 or not 0 <= mixing <= 1:
            raise ValueError(
                "r1_every, path_every, deviation_group, mixing: expected whole numbers of at least 1 and a chance in "
                f"[0, 1], found {r1_every}, {path_every}, {deviation_group}, {mixing}"
            )
        generator = StyleGenerator(resolution, z_dim, w_dim, num_mapping_layers, channel_base, channel_max, margin)
        self.generator = generator.to(memory_format=torch.channels_last)
        discriminator = Discriminator(resolution, channel_base, channel_max, deviation_group)
        self.discriminator = discriminator.to(memory_format=torch.channels_last)
        self.mixing, self.every = mixing, {"r1": r1_every, "path_length": path_every}
        self.augmentation = augmentation or AdaptiveAugmentation()
        self.register_buffer("ada_probability", torch.tensor(self.augmentation.fixed or 0.0))
        self.register_buffer("ada_seen", torch.zeros(2))  # sum of signs of D(x), and of how many pictures
        self.register_buffer("path_mean", torch.tensor(0.0))
        self._signs: list[Tensor] = []  # of each micro-batch of a step, sum and count
        self._lengths: list[Tensor] = []

    def turns(self) -> tuple[Turn, ...]:
        """Generator and discriminator, in every step."""
        own = {"generator": ("generator", "path_length"), "discriminator": ("discriminator", "r1")}
        given = {name: tuple(loss for loss in losses if loss in self.loss_weights) for name, losses in own.items()}
        return tuple(Turn(name, (name,), losses) for name, losses in given.items())

    def weights_at(self, step: int) -> Mapping[str, float]:
        """Penalties now and then, with as much more weight (lazy regularisation)."""
        return {
            name: weight * every if step % (every := self.every.get(name, 1)) == 0 else 0.0
            for name, weight in self.loss_weights.items()
        }

    # One forward -------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Samples that have a target count.

        Raises:
            ValueError: targets of another size than the generator's pictures.
        """
        self._check_size(batch)
        fake = cache(lambda: self._scores(self.generator(self._codes(draws), self._noise(draws)), draws, "fake"))
        values = {
            "generator": lambda: generator_loss(fake()),
            "path_length": lambda: self._path(draws),
            "discriminator": lambda: discriminator_loss(self._real_scores(batch, draws), fake()),
            "r1": lambda: gradient_penalty(
                self.discriminator, self._shown(batch["target"].to(self.device), draws, "real")
            ),
        }
        counts = batch["has_target"].to(self.device)
        return {name: LossTerm(counts, values[name]) for name in self.loss_weights}

    def _check_size(self, batch: Batch) -> None:
        side, found = self.generator.picture_side, tuple(batch["target"].shape[-2:])
        if found != (side, side):
            raise ValueError(
                f"data.init_args.resolution: expected {side}, the side of the generator's pictures, found targets of "
                f"{found[0]}x{found[1]}"
            )

    def _codes(self, draws: Draws) -> Tensor:
        """Codes w+ of random z, some of two."""
        width, number = self.generator.config.z_dim, self.generator.num_codes
        first, second = (self.generator.mapping(draws.normal(name, (width,)).to(self.device)) for name in ("z", "z2"))
        crossing = 1 + draws.integers("crossing", number - 1)
        crossing = torch.where(draws.bernoulli("mixing", self.mixing), crossing, number)
        return mixed(first, second, crossing.to(self.device), number)

    def _noise(self, draws: Draws) -> list[Tensor]:
        sides = enumerate(self.generator.noise_sides)
        return [draws.normal(f"noise/{number}", (1, side, side)).to(self.device) for number, side in sides]

    def _shown(self, images: Tensor, draws: Draws, name: str) -> Tensor:
        """Pictures as the discriminator sees them."""
        fixed = self.augmentation.fixed
        probability = float(self.ada_probability) if fixed is None else fixed
        images = self.generator.without_margin(images)
        return augment(images, draws.normal(f"augment/{name}", (NUM_DRAWS,)), probability)

    def _scores(self, images: Tensor, draws: Draws, name: str) -> Tensor:
        return self.discriminator(self._shown(images, draws, name))

    def _real_scores(self, batch: Batch, draws: Draws) -> Tensor:
        scores = self._scores(batch["target"].to(self.device), draws, "real")
        real = batch["has_target"].to(self.device)
        if torch.is_grad_enabled():  # not in validation
            self._signs.append(torch.stack([(scores.detach().sign() * real).sum(), real.sum()]))
        return scores

    def _path(self, draws: Draws) -> Tensor:
        side = self.generator.picture_side
        with torch.inference_mode(False):  # in validation too, copies from which a gradient can be taken
            noise = [one.clone() for one in self._noise(draws)]
        directions = draws.normal("path", (3, side, side)).to(self.device)
        lengths = path_lengths(lambda codes: self.generator(codes, noise), self._codes(draws), directions)
        if torch.is_grad_enabled():
            self._lengths.append(torch.stack([lengths.detach().sum(), lengths.new_tensor(len(lengths))]))
        return path_penalty(lengths, self.path_mean)

    # What moves beside the weights -------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A step, and then p and the mean path length, of all ranks together."""
        self._signs, self._lengths, nothing = [], [], torch.zeros(2, device=self.device)
        super().training_step(batch, batch_idx)
        signs, lengths = (self._reduce(sum(parts, nothing)) for parts in (self._signs, self._lengths))
        if self.outcome is None or not self.outcome.taken:
            return
        self.ada_seen += signs
        if lengths[1] > 0:
            self.path_mean.copy_(running_mean(self.path_mean, lengths[0] / lengths[1]))
        if self.augmentation.fixed is None and self.step % self.augmentation.every == 0:
            self._steer()

    def _steer(self) -> None:
        total, count = self.ada_seen.tolist()
        if count:
            config, before = self.augmentation, float(self.ada_probability)
            self.ada_probability.fill_(adapted(before, total / count, config.target, count, config.span))
        self.ada_seen.zero_()

    def logged(self) -> dict[str, Tensor]:
        """Probability of an augmentation, and mean path length."""
        return {"augmentation": self.ada_probability, "path_mean": self.path_mean}

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """The generator, with the mean of its codes."""
        self.generator.measure_average()
        save_parts(folder, {"generator": self.generator})
        return ABOUT
