"""Means of the loss terms over a validation set, whole and by range of diffusion timesteps."""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from mmig.training.terms import LossTerm, term_means, total_loss

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

    def update(self, terms: Mapping[str, LossTerm], timesteps: Tensor | None, counted: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            terms: of the batch's samples.
            timesteps: [B] in [0, 1000), or None.
            counted: bool [B], False for samples that count elsewhere; None: all count.
        """
        self.by_timestep |= timesteps is not None
        for row, name in enumerate(self.weights):
            value, count = terms[name].values.detach().double().cpu(), terms[name].counts.double().cpu()
            if counted is not None:
                count = count * counted.cpu()
            places = torch.zeros(len(value), dtype=torch.int64) if timesteps is None else timesteps.cpu().long()
            ranges = places * NUM_RANGES // NUM_TIMESTEPS
            self.sums[row].index_add_(0, ranges, torch.stack([value * count, count], dim=1))

    def compute(self, reduce: Callable[[Tensor], Tensor], device: torch.device) -> dict[str, Tensor]:
        """Mean of each term, of each term by timestep range, and the weighted total under "loss"."""
        sums = reduce(self.sums.to(device, torch.float32 if device.type == "mps" else torch.float64))
        whole = sums.sum(dim=1).unbind(dim=1)
        metrics = dict(zip(self.weights, term_means(*whole).float(), strict=True))
        metrics["loss"] = total_loss(*whole, sums.new_tensor(list(self.weights.values()))).float()
        if self.by_timestep:
            width = NUM_TIMESTEPS // NUM_RANGES
            for row, name in enumerate(self.weights):
                for i in range(NUM_RANGES):
                    if name not in self.without_timestep and sums[row, i, 1] > 0:
                        label = f"{name}/t{i * width:03d}-{(i + 1) * width - 1:03d}"
                        metrics[label] = (sums[row, i, 0] / sums[row, i, 1]).float()
        return metrics
