"""Values and counts of a module's loss terms by name."""

from torch import Tensor

from datamodules.schema import Batch
from mmig.training.rng import Draws
from mmig.training.steps import SteppingModule


def values_of(module: SteppingModule, batch: Batch, draws: Draws) -> dict[str, Tensor]:
    """Value of each term of each sample, float32 [B]."""
    return {name: term.values for name, term in module.losses(batch, draws).items()}


def counts_of(module: SteppingModule, batch: Batch, draws: Draws) -> dict[str, Tensor]:
    """How much each sample counts in each term, float32 [B]."""
    return {name: term.counts for name, term in module.losses(batch, draws).items()}
