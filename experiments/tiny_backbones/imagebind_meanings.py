"""What a sound of the small world stands for, and which pictures show it: the negatives of a contrast that are none."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def names_shown(scene: Mapping[str, Any]) -> set[str]:
    """Words for the shapes, colours and the effect of a scene in its JSON form, as sounds stand for them.

    A colour that an effect hides counts as shown.
    """
    things = {thing[name] for thing in scene["things"] for name in ("shape", "colour")}
    return things | {scene["effect"]} - {""}


def shows(scenes: Sequence[Mapping[str, Any] | None], names: Sequence[str]) -> Tensor:
    """Whether a picture shows what a name stands for, bool [names, scenes].

    Args:
        scenes: JSON forms of scene graphs; of None, an unknown one, nobody can tell: it counts as showing everything.
        names: words for shapes, colours and effects; "" is shown by none.
    """
    shown = [None if scene is None else names_shown(scene) for scene in scenes]
    rows = [[found is None or name in found for found in shown] for name in names]
    return torch.tensor(rows, dtype=torch.bool).view(len(names), len(scenes))
