"""Nine learned queries that read from any states what stands at each place of a scene: its shape, colour and size.

While the tiny CLIP trains, readers of its towers' states are a dense objective beside contrast and are thrown away
afterwards; `probes` trains a fresh one to measure what frozen states tell.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.tinyworld.scene import OBJECT_COLOURS, PLACES, SHAPES, SIZES
from datamodules.tinyworld.words import COLOURLESS
from experiments.tiny_backbones.clip_model import CrossAttentionLayer
from mmig.language.token_loss import IGNORED

ATTRIBUTES: dict[str, tuple[str, ...]] = {"shape": SHAPES, "colour": tuple(OBJECT_COLOURS), "size": SIZES}
_SIZES = [1 + len(values) for values in ATTRIBUTES.values()]
EMPTY = 0
"""Label of a place without an object; values of an attribute count from 1."""


def scene_labels(scenes: Sequence[Mapping[str, Any] | None]) -> Tensor:
    """What stands at each place, int64 [N,9,3] in the order of `PLACES` and `ATTRIBUTES`; `EMPTY` where nothing does.

    `IGNORED` where there is no telling: everywhere without a scene, and at an object whose value shows nowhere or is
    none of the attribute's.

    Args:
        scenes: JSON forms of scene graphs, None for unknown ones.
    """
    labels = torch.full((len(scenes), len(PLACES), len(ATTRIBUTES)), IGNORED)
    for row, scene in zip(labels, scenes, strict=True):
        if scene is None:
            continue
        row[:] = EMPTY
        for thing in scene["things"]:
            row[PLACES.index(thing["place"])] = torch.tensor(
                [_label(name, thing[name], scene["effect"]) for name in ATTRIBUTES]
            )
    return labels


def are_known(scenes: Sequence[Mapping[str, Any] | None]) -> Tensor:
    """Which scenes there is a graph of, bool [N]."""
    return torch.tensor([scene is not None for scene in scenes])


def edit_labels(edits: Sequence[Mapping[str, Any] | None]) -> tuple[Tensor, Tensor]:
    """The one object that each edit is about, before and after it, as `scene_labels` of scenes with nothing else.

    Args:
        edits: JSON forms with "before" and "after", None where there is no such object; None for unknown edits.
    """

    def labels(moment: str) -> Tensor:
        things = [None if edit is None else [edit[moment]] if edit[moment] else [] for edit in edits]
        return scene_labels([None if found is None else {"things": found, "effect": ""} for found in things])

    return labels("before"), labels("after")


def _label(attribute: str, value: str, effect: str) -> int:
    values = ATTRIBUTES[attribute]
    hidden = value not in values or (attribute == "colour" and effect in COLOURLESS)
    return IGNORED if hidden else 1 + values.index(value)


class QueryReader(nn.Module):
    """Attention of learned queries to the states, a feed-forward layer, and a linear answer.

    Args:
        num_queries: of learned queries. num_answers: logits of each.
        state_width: of the states that it reads.
        width: of the queries and of what they read.
        heads: of the attention.
    """

    def __init__(self, num_queries: int, num_answers: int, state_width: int, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(state_width)
        self.queries = nn.Parameter(torch.randn(num_queries, width))
        self.layer = CrossAttentionLayer(width, state_width, heads)
        self.answers = nn.Linear(width, num_answers)

    def forward(self, states: Tensor, hidden: Tensor | None = None) -> Any:
        """Logits [N,queries,answers] from states [N,L,state_width] that are not `hidden`, bool [N,L]."""
        return self.answers(self.layer(self.queries.expand(len(states), -1, -1), self.norm(states), hidden))


class SceneReader(QueryReader):
    """Nine queries with one answer an attribute.

    Args:
        state_width, width, heads: see `QueryReader`.
    """

    def __init__(self, state_width: int, width: int = 128, heads: int = 4) -> None:
        super().__init__(len(PLACES), sum(_SIZES), state_width, width, heads)

    def forward(self, states: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, ...]:
        """Logits [N,9,1+values] of each attribute from states [N,L,state_width] that are not `hidden`, bool [N,L]."""
        return super().forward(states, hidden).split(_SIZES, dim=-1)


def reading_losses(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of the attributes, float32 [N]: the mean over what objects are, and that over empty places.

    Their sum, as eight of nine places are empty: over all places alike a reader first learns to say so everywhere.

    Args:
        logits: of each attribute, [N,9,1+values].
        labels: as `scene_labels` gives them; what is `IGNORED` counts nowhere.
    """
    losses = torch.stack(
        [
            F.cross_entropy(each.float().flatten(0, 1), labels[..., number].flatten(), reduction="none").view(
                labels.shape[:2]
            )
            for number, each in enumerate(logits)
        ],
        dim=-1,
    )
    present, empty = labels > EMPTY, labels == EMPTY
    return sum((losses * part).sum((1, 2)) / part.sum((1, 2)).clamp(min=1) for part in (present, empty))
