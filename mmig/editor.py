"""What every editing method looks like from outside: a batch goes in, edited images come out.

evaluate.py, edit.py and the callbacks know only this file, so any method can be run by them.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.base.values import check_values

ResponseSource = Literal["given", "generated", "none"]
AnyEditor = TypeVar("AnyEditor", bound="Editor")
ATTACHMENTS = {"image": "attachment_images", "audio": "attachment_audio"}
"""Kinds of attachments -> the field of the batch by which an editor says that it takes them."""


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
        extras: anything else a method wants to show (attention maps, timings) or its metrics want to read, by name;
            "missing" (list of bool, one a sample): there is no image of this sample, every metric skips it;
            "as_made" (list of float32 [3,h,w] in [-1,1] or None, one a sample): the image in the size that it was made
            in, where `images` holds it resized by `mmig.metrics.images.RESIZING`;
            "cut" (list of lists of `CutText`, one a sample): texts of which the editor has read only the beginning.
    """

    images: Tensor
    texts: list[str]
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NoSettings:
    """The `sampling` of an editor that has nothing to set."""


class Editor(Protocol):
    """An instruction-guided editor, as returned by `make_pipeline()` of a training module.

    `sampling` is a dataclass, all that can be set, and the other properties derive from it: an editor with other
    settings is a shallow copy with another `sampling` (`with_settings`). Optional attributes:

        optional_fields (tuple of str): fields that it reads where the batch has them, see `read_fields`.
        idle_settings (tuple of str): fields of `sampling` that do nothing with its weights; setting them is refused.
        resolution (int or None): longer side in pixels at which it edits best, where nothing else says so.
        attachment_size (int): side in pixels of the attached pictures that it looks at, where nothing else says so.
        metrics (tuple of str): metrics of its own, as of `TrainingModule`.
        autoencoder (nn.Module or None): of diffusers, through whose latents its pictures go; where it is not `vae`.
    """

    sampling: Any
    """A dataclass of numbers, words and flags; `NoSettings` where there are none."""

    @property
    def required_fields(self) -> tuple[str, ...]:
        """Fields of the batch that must be present, for example ("source", "instruction")."""
        ...

    @property
    def response_source(self) -> ResponseSource:
        """Where the response comes from: the data ("given"), the LLM ("generated"), or the method has none ("none")."""
        ...

    def __call__(self, batch: Batch, generator: torch.Generator | Sequence[torch.Generator]) -> EditOutput:
        """Edit a batch; one generator for all samples, or one a sample (results then do not depend on batching)."""
        ...


def with_settings(editor: AnyEditor, changes: Mapping[str, Any]) -> AnyEditor:
    """A shallow copy of the editor with other values of some fields of its `sampling`; the editor stays as it is.

    Raises:
        ValueError: a value that cannot be (`check_values`), also where the settings themselves would take it.
    """
    changed = copy.copy(editor)
    changed.sampling = replace(editor.sampling, **changes)
    check_values(changed.sampling, "sampling")
    return changed


def read_fields(editor: Editor) -> tuple[str, ...]:
    """All fields of the batch that an editor reads: the required ones, then the optional ones."""
    return (*editor.required_fields, *getattr(editor, "optional_fields", ()))


def autoencoder_of(editor: Editor) -> Any | None:
    """The autoencoder through whose latents an editor's pictures go; None where there is none, or it does not say."""
    own = getattr(editor, "autoencoder", None)
    return getattr(editor, "vae", None) if own is None else own


@runtime_checkable
class KnowsSeeds(Protocol):
    """An editor that has its results already, made under several seeds."""

    def at_seed(self, seed: int) -> Editor:
        """The editor that gives the results of one seed."""
        ...


@runtime_checkable
class ShowsAttention(Protocol):
    """An editor that can say where it looked."""

    @property
    def attends_to_words(self) -> bool:
        """Whether its denoiser reads a text under its settings; else there is nothing to show."""
        ...

    def showing_attention(self) -> Editor:
        """The same editor, which also gives `ConceptAttention` in `extras["attention"]`."""
        ...


@runtime_checkable
class Writes(Protocol):
    """An editor whose language model says what it will do; another editor may follow that text."""

    def write(self, batch: Batch) -> list[str]:
        """The text that it writes for each sample of a batch, whatever texts of its kind the batch has."""
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
        if flags is not None and flags.ndim > 1:  # one flag each of several that a sample may have
            flags = flags.any(1)
        present = [name in batch] * len(batch["key"]) if flags is None else flags.tolist()
        if not all(present):
            key = batch["key"][present.index(False)]
            raise MissingFieldError(
                f"sample {key!r}: {type(editor).__name__} needs the field {name!r}, found none; "
                f"evaluate on data that have {', '.join(editor.required_fields)}"
            )
