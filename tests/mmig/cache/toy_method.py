"""A method with a feature of its own: its frozen part counts the bright pixels of a target and spells its instruction.

`letters` is text, and as long as the instruction; `brightness` looks at the image.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.cache.frozen import CachedFeature, FrozenFeatures, image
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm


class ToyMethod(TrainingModule):
    """Learns the length of the instruction from the columns of the target; `threshold` is what its features are of."""

    def __init__(self, threshold: float = 0.0, optimizer: OptimizerConfig | None = None, **settings: Any) -> None:
        super().__init__(optimizer or OptimizerConfig(), {"error": 1.0}, **settings)
        self.threshold = threshold
        self.computed_features: list[str] = []
        self.net = nn.Linear(16, 1)
        self.features = FrozenFeatures(self.feature_facts)
        self.features.declare(
            CachedFeature("brightness", self.brightness, ("threshold",), sees_images=True),
            CachedFeature("letters", self.letters, ("alphabet",)),
        )

    def feature_facts(self) -> dict[str, str]:
        return {"threshold": str(self.threshold), "alphabet": "unicode"}

    def brightness(self, batch: Batch) -> list[Tensor]:
        """Bright pixels of each column, counted from the left, [16] each."""
        self.computed_features.append("brightness")
        return list((image(batch, "target") > self.threshold).float().mean(dim=(1, 2)))

    def letters(self, batch: Batch) -> list[Tensor]:
        """A number a letter, [n]."""
        self.computed_features.append("letters")
        return [torch.tensor([float(ord(letter)) for letter in text]) for text in batch["instruction"]]

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        return {"error": LossTerm(batch["has_target"].float(), cache(lambda: self.error(batch)))}

    def error(self, batch: Batch) -> Tensor:
        columns, _ = self.features.get("brightness", batch)
        letters, lengths = self.features.get("letters", batch)
        assert letters.shape[1] == max(lengths)
        return (self.net(columns.float())[:, 0] - lengths + letters.sum(dim=1) / 1e4).square()

    @property
    def images_with_features(self) -> frozenset[str]:
        return frozenset({"source", "target"})
