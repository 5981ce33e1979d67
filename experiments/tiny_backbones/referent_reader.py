"""Seven learned queries that read from patches where the object stands that a visual instruction may mean.

"The largest shape" is seen in one object after another, "the odd one out" only by comparing all of them. A language
model that reads patches from first to last cannot compare a patch with those behind it; an image tower can, and does so
where it is asked. Thrown away afterwards, as the readers of `scene_reader`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.tinyworld.scene import PLACES, Scene
from datamodules.tinyworld.visual import ODD, REFERENTS, first_by, odd_one_out
from experiments.tiny_backbones.scene_reader import QueryReader
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


class ReferentReader(QueryReader):
    """Seven queries whose answers, logits [N,7,10], are places and nobody.

    Args:
        state_width: see `QueryReader`.
    """

    def __init__(self, state_width: int) -> None:
        super().__init__(len(NAMES), len(PLACES) + 1, state_width)


def referent_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, float32 [N]: the sum over what means an object, and the mean over what means nobody.

    Args:
        logits: [N,7,10].
        labels: as `referent_labels` gives them; what is `IGNORED` counts nowhere.
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    somebody, nobody = (labels >= 0) & (labels < NOBODY), labels == NOBODY
    return (losses * somebody).sum(1) + (losses * nobody).sum(1) / nobody.sum(1).clamp(min=1)
