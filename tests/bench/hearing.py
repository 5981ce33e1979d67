"""A module with two optimisers that are due in turns, and whose inputs are attached sounds."""

from typing import Any

from mmig.training.rng import Draws
from mmig.training.terms import LossTerm
from tests.toy import NUM_FEATURES
from tests.two_optimisers import InTurns


class Hearing(InTurns):
    """`InTurns` on the beginning of each sample's sound, its second attachment."""

    def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
        return super().losses(batch | {"inputs": batch["attachment_audio"][:, 1, :NUM_FEATURES]}, draws)
