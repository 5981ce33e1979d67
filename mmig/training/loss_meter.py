"""Means of the loss terms over a validation set, whole and by range of diffusion timesteps."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor

NUM_RANGES, NUM_TIMESTEPS = 4, 1000


class LossMeter:
    """Adds up per-sample losses so that the result does not depend on batch size or number of ranks.

    Args:
        weights: weight of each term in the total, by name.
        without_timestep: terms that have nothing to do with the sample's timestep, or weigh samples by it.
    """

    def __init__(self, weights: dict[str, float], without_timestep: Collection[str] = ()) -> None:
        self.weights = weights
        self.without_timestep = frozenset(without_timestep)
        self.sums = torch.zeros(len(weights), NUM_RANGES, 2, dtype=torch.float64)
        self.by_timestep = False

    def update(self, values: dict[str, Tensor], counts: dict[str, Tensor], timesteps: Tensor | None) -> None:
        """Add a batch: values and counts [B] a term, timesteps [B] in [0, 1000) or None."""
        self.by_timestep |= timesteps is not None
        for row, name in enumerate(self.weights):
            value, count = values[name].detach().double().cpu(), counts[name].double().cpu()
            places = torch.zeros(len(value), dtype=torch.int64) if timesteps is None else timesteps.cpu().long()
            ranges = places * NUM_RANGES // NUM_TIMESTEPS
            self.sums[row].index_add_(0, ranges, torch.stack([value * count, count], dim=1))

    def compute(self, reduce: Callable[[Tensor], Tensor], device: torch.device) -> dict[str, Tensor]:
        """Mean of each term, of each term by timestep range, and the weighted total under "loss"."""
        sums = reduce(self.sums.to(device, torch.float32 if device.type == "mps" else torch.float64))
        means = sums.sum(dim=1)[:, 0] / sums.sum(dim=1)[:, 1].clamp(min=1e-12)
        metrics = {name: means[row].float() for row, name in enumerate(self.weights)}
        metrics["loss"] = sum((weight * metrics[name] for name, weight in self.weights.items()), torch.zeros(()))
        if self.by_timestep:
            width = NUM_TIMESTEPS // NUM_RANGES
            for row, name in enumerate(self.weights):
                for i in range(NUM_RANGES):
                    if name not in self.without_timestep and sums[row, i, 1] > 0:
                        label = f"{name}/t{i * width:03d}-{(i + 1) * width - 1:03d}"
                        metrics[label] = (sums[row, i, 0] / sums[row, i, 1]).float()
        return metrics
