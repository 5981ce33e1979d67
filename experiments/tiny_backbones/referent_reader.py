"""Seven learned queries that read from patches where the object stands that a visual instruction may mean.

"The largest shape" is seen in one object after another, "the odd one out" only by comparing all of them. A language
model that reads patches from first to last cannot compare a patch with those behind it; an image tower can, and does so
where it is asked. Thrown away afterwards, as the readers of `scene_reader`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.tinyworld.scene import PLACES, Scene
from datamodules.tinyworld.visual import ODD, REFERENTS, first_by, odd_one_out
from experiments.tiny_backbones.clip_model import CrossAttentionLayer
from mmig.language.token_loss import IGNORED

NAMES = (ODD, *REFERENTS)
NOBODY = len(PLACES)
"""Label of a referent that no object answers to, or more than one; places count from 0."""


def referent_labels(scenes: Sequence[Mapping[str, Any] | None]) -> Tensor:
    """Where the object stands that each of `NAMES` means, int64 [N,7]; `IGNORED` without a scene.

    Args:
        scenes: JSON forms of scene graphs, None for unknown ones.
    """
    labels = torch.full((len(scenes), len(NAMES)), IGNORED)
    for row, known in zip(labels, scenes, strict=True):
        if known is not None:
            scene = Scene.from_dict(dict(known))
            meant = [odd_one_out(scene), *(first_by(scene, order) for order in REFERENTS.values())]
            row[:] = torch.tensor([NOBODY if thing is None else PLACES.index(thing.place) for thing in meant])
    return labels


class ReferentReader(nn.Module):
    """Attention of seven queries to the states, a feed-forward layer, and one linear answer.

    Args:
        state_width: of the states that it reads.
        width: of the queries and of what they read.
        heads: of the attention.
    """

    def __init__(self, state_width: int, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(state_width)
        self.queries = nn.Parameter(torch.randn(len(NAMES), width))
        self.layer = CrossAttentionLayer(width, state_width, heads)
        self.answer = nn.Linear(width, len(PLACES) + 1)

    def forward(self, states: Tensor) -> Tensor:
        """Logits [N,7,10] of places and nobody from states [N,L,state_width]."""
        return self.answer(self.layer(self.queries.expand(len(states), -1, -1), self.norm(states)))


def referent_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, float32 [N]: the sum over what means an object, and the mean over what means nobody.

    Args:
        logits: [N,7,10].
        labels: as `referent_labels` gives them; what is `IGNORED` counts nowhere.
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    somebody, nobody = (labels >= 0) & (labels < NOBODY), labels == NOBODY
    return (losses * somebody).sum(1) + (losses * nobody).sum(1) / nobody.sum(1).clamp(min=1)
