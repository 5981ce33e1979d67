"""What every editing method looks like from outside: a batch goes in, edited images come out.

evaluate.py, edit.py and the callbacks know only this file, so any method can be run by them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from datamodules.schema import Batch

ResponseSource = Literal["given", "generated", "none"]


@dataclass
class EditOutput:
    """Result of one editing call.

    Attributes:
        images: edited images, float32 [B,3,H,W] in [-1,1].
        texts: one text a sample (the response z_d or the caption of the new image), "" where the method has none.
        extras: anything else a method wants to show (attention maps, timings), by name.
    """

    images: Tensor
    texts: list[str]
    extras: dict[str, Any] = field(default_factory=dict)


class Editor(Protocol):
    """An instruction-guided editor, as returned by `make_pipeline()` of a training module."""

    required_fields: tuple[str, ...]
    """Fields of the batch that must be present, for example ("source", "instruction")."""

    response_source: ResponseSource
    """Where the response comes from: the data ("given"), the LLM ("generated"), or the method has none ("none")."""

    def __call__(self, batch: Batch, generator: torch.Generator | Sequence[torch.Generator]) -> EditOutput:
        """Edit a batch; one generator for all samples, or one a sample (results then do not depend on batching)."""
        ...
