"""UMM-Diffusion for people: a text, pictures for some of its words, and PIL images out."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from datamodules.schema import (
    AttachmentSettings,
    Batch,
    SchemaError,
    Span,
    collate,
    placeholders,
    with_attachment_tensors,
)
from mmig.base.batches import move_batch
from mmig.diffusion.sampling import Generators
from mmig.editor import with_settings
from mmig.evaluation.opening import open_checkpoint
from mmig.evaluation.pictures import editing_size, to_pil
from mmig.methods.umm_diffusion.editor import FIELD, SubjectEditor
from mmig.methods.umm_diffusion.words import SubjectError

LEAST_SIDE = 2
"""Pixels of a subject's picture: one pixel is a colour, not a subject. Low resolution is no obstacle (figure 9)."""
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
Subjects = Mapping[str | int, Image.Image]


class UMMDiffusionPipeline:
    """Draws images of a text in which pictures stand for words, without any tuning.

    Args:
        editor: with all parts.
    """

    def __init__(self, editor: SubjectEditor) -> None:
        self.editor = editor

    @classmethod
    def from_pretrained(cls, path: str | Path, device: torch.device | str = "cpu") -> "UMMDiffusionPipeline":
        """Open a folder that `python -m mmig.run.export` wrote, a run, or one of its checkpoints.

        Raises:
            ValueError: none of these, or one of another method.
        """
        editor = open_checkpoint(path, device=device).editor
        if not isinstance(editor, SubjectEditor):
            raise ValueError(f"{path}: expected a model of UMM-Diffusion, found a {type(editor).__name__}")
        return cls(editor)

    def __call__(
        self,
        text: str,
        subjects: Subjects,
        generator: Generators = 0,
        num_images: int = 1,
        resolution: int | tuple[int, int] | None = None,
        **sampling: Any,
    ) -> list[Image.Image]:
        """Images of the text.

        Args:
            text: y, such as "a dog in the snow", without placeholders.
            subjects: pictures x_s by the word that each stands for, as it is in the text, in any case; or by its
                position p, counted in words from 1, where the word is there more than once. A subject may be an object,
                a background, a material, or a style ("a cat in the style of painting"). Pictures may be of any mode and
                size: grey ones become RGB, transparent ones stand on white, all are squashed to the image encoder's
                square.
            generator: a seed or generator, or one an image.
            num_images: of this text.
            resolution: of the images in pixels, (width, height) or the side of a square; None: the UNet's.
            sampling: other values of `SubjectSampling`, such as fuse_ratio=0.7.

        Raises:
            SubjectError: a text or subject that cannot be used; one line says which.
            ValueError: other arguments that do not fit.
        """
        editor = with_settings(self.editor, sampling) if sampling else self.editor
        side = resolution or editor.resolution
        if side is None or num_images < 1:
            raise ValueError(
                f"resolution and num_images: expected numbers of at least 1, found {side} and {num_images}"
            )
        width, height = editing_size(side if isinstance(side, tuple) else (side, side), None)
        sample = self._sample(text, subjects, editor.attachment_size)
        samples = [{**sample, "key": f"image {number}"} for number in range(num_images)]
        batch = move_batch(collate(samples, size=(height, width)), editor.text_encoder.device)
        return to_pil(editor(Batch(**batch), generator).images)  # type: ignore[typeddict-item]

    def _sample(self, text: str, subjects: Subjects, side: int) -> dict[str, Any]:
        """The text and its subjects, as a sample ready for `collate`."""
        spans = word_spans(text, subjects)
        attachments = [
            {"kind": "image", "role": "subject", "data": _checked(name, picture), "word": list(span)}
            for (name, picture), span in zip(subjects.items(), spans, strict=True)
        ]
        sample = {"key": "image", FIELD: text, "attachments": attachments}
        settings = AttachmentSettings(attachment_size=side, max_attachments=len(attachments))
        try:
            return dict(with_attachment_tensors(sample, settings))  # type: ignore[arg-type]
        except (SchemaError, ValueError) as error:
            raise SubjectError(f"subjects: {error}") from error


def word_spans(text: str, subjects: Mapping[str | int, Any]) -> list[Span]:
    """Characters of the word that each subject stands for.

    Args:
        text: y.
        subjects: by word or by position, see `UMMDiffusionPipeline`; several words in one key are one name.

    Raises:
        SubjectError: no text or subject, a placeholder, more subjects than words, a word that is not there or more than
            once, a position behind the last word, or two subjects on one word.
    """
    words = [match.span() for match in _WORD.finditer(text)]
    if not words:
        raise SubjectError("text: expected words, found none; say what the image is to show")
    if found := placeholders(text):
        mark = text[found[0].start : found[0].end]
        raise SubjectError(f"text: {mark} is for edit.py and shards; leave it out, `subjects` says the word")
    if not subjects:
        raise SubjectError("subjects: expected at least one picture, {word: picture}, found none")
    if len(subjects) > len(words):
        raise SubjectError(f"subjects: {len(subjects)} pictures for the {len(words)} words of {text!r}; give fewer")
    spans: dict[Span, str | int] = {}
    for name in subjects:
        span = _at(words, name, text) if isinstance(name, int) else _of_name(name, text)
        if other := next((given for taken, given in spans.items() if span[0] < taken[1] and taken[0] < span[1]), None):
            raise SubjectError(f"subjects: {other!r} and {name!r} are one word of {text!r}; give it one picture")
        spans[span] = name
    return list(spans)


def _at(words: list[Span], position: int, text: str) -> Span:
    if not 1 <= position <= len(words):
        raise SubjectError(f"subjects: position {position}: expected one of the words 1 to {len(words)} of {text!r}")
    return words[position - 1]


def _of_name(name: str, text: str) -> Span:
    found = [match.span() for match in re.finditer(rf"(?<!\w){re.escape(name.strip())}(?!\w)", text, re.IGNORECASE)]
    if not name.strip() or not found:
        raise SubjectError(f"subjects: the word {name!r} is not in {text!r}")
    if len(found) > 1:
        raise SubjectError(f"subjects: the word {name!r} is {len(found)} times in {text!r}; give its position instead")
    return found[0]


def _checked(name: str | int, picture: Any) -> Image.Image:
    if not isinstance(picture, Image.Image):
        raise SubjectError(f"subjects[{name!r}]: expected a PIL image, found {type(picture).__name__}")
    if min(picture.size) < LEAST_SIDE:
        found = f"{picture.width}x{picture.height}"
        raise SubjectError(f"subjects[{name!r}]: a picture of {found} pixels shows no subject; give a larger one")
    return picture
