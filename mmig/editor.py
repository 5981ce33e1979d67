"""What every editing method looks like from outside: a batch goes in, edited images come out.

evaluate.py, edit.py and the callbacks know only this file, so any method can be run by them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from datamodules.schema import Batch

ResponseSource = Literal["given", "generated", "none"]


class MissingFieldError(ValueError):
    """The data lack a field that the editor declares as required."""


@dataclass(frozen=True)
class ConceptAttention:
    """Where the denoiser looked for each concept of a text, mean over the steps; what `extras["attention"]` holds.

    Attributes:
        words: the concepts of each sample, as they stand in its text.
        maps: float32 [B,K,h,w], the largest value of each map 1; zeros where a concept is not valid.
        valid: bool [B,K], False where a concept is not in what the text encoder read, or there is none.
    """

    words: list[list[str]]
    maps: Tensor
    valid: Tensor


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


@runtime_checkable
class ShowsAttention(Protocol):
    """An editor that can say where it looked."""

    def showing_attention(self) -> Editor:
        """The same editor, which also gives `ConceptAttention` in `extras["attention"]`."""
        ...


@runtime_checkable
class EditsInLayers(Protocol):
    """An editor that can also treat object and background of an image apart."""

    def layered(self) -> Editor:
        """An editor of its own with the same weights and settings, which reads more of a batch where it is there:

        `object_phrase` and `background_phrase` of the goal image (else it makes them up from the response), and
        `reference_mask`, the object in the source (else the whole image). `extras` has "layers", the (object,
        background) of each sample, and "layered_loss", the loss of its inner problem before and after, float32 [2,B].
        """
        ...


def in_layers(editor: Editor) -> Editor:
    """The layered editor of an editor, for --layered.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(editor, EditsInLayers):
        raise ValueError(
            f"--layered: {type(editor).__name__} does not edit in layers; leave it out, or take a run of an MMIG stage"
        )
    return editor.layered()


def check_fields(editor: Editor, batch: Mapping[str, Any]) -> None:
    """Refuse a batch without what the editor requires.

    Raises:
        MissingFieldError: naming the field and a sample that lacks it.
    """
    for name in editor.required_fields:
        flags = batch.get(f"has_{name}")
        present = [name in batch] * len(batch["key"]) if flags is None else flags.tolist()
        if not all(present):
            key = batch["key"][present.index(False)]
            raise MissingFieldError(
                f"sample {key!r}: {type(editor).__name__} needs the field {name!r}, found none; "
                f"evaluate on data that have {', '.join(editor.required_fields)}"
            )
