"""Attachments of a sample -> tensors of a batch: pictures squashed to one size, sounds as one channel at one rate.

Pictures are squashed rather than cut, for what they show may lie at their edge, and never flipped: they are shown as
they are, whatever becomes of source and target. An `answer`, which only scoring may see, never enters a batch; it stays
in the sample, where `answers` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from datamodules.audio import HIGHEST_RATE, LOWEST_RATE, decode_audio
from datamodules.faults import BadSample
from datamodules.features import ATTACHMENTS, FeatureError
from datamodules.images import decode_image
from datamodules.pixels import to_rgb
from datamodules.placeholders import PLACEHOLDER_FIELDS, Span, placeholders, without_placeholders_but_words
from datamodules.sample import ANSWER, DEFAULT_ROLE, Attachment, Sample, SchemaError, check_attachments, text_of
from datamodules.tensors import image_to_tensor

_Found = dict[tuple[int, int], Tensor]
"""Tensors by row and number."""
_EMPTY_SLOT: dict[str, Any] = {"kind": "", "role": "", "word": None}


@dataclass(frozen=True)
class AttachmentSettings:
    """What becomes of attachments; settings of the data.

    Attributes:
        attachment_size: side of their pictures in pixels.
        audio_rate: samples a second of their sounds.
        audio_seconds: longest sound that is read; a longer one is a fault.
        max_attachments: most attachments of a sample, answers not counted; more are a fault.

    Raises:
        ValueError: a setting out of range, by name.
    """

    attachment_size: int = 224
    audio_rate: int = 16_000
    audio_seconds: float = 10.0
    max_attachments: int = 4

    def __post_init__(self) -> None:
        rates = f"{LOWEST_RATE} to {HIGHEST_RATE}"
        for name, good, wanted in (
            ("attachment_size", self.attachment_size >= 1, "at least 1 pixel"),
            ("audio_rate", LOWEST_RATE <= self.audio_rate <= HIGHEST_RATE, f"{rates} samples a second"),
            ("audio_seconds", isfinite(self.audio_seconds) and self.audio_seconds > 0, "more than 0 seconds"),
            ("max_attachments", self.max_attachments >= 0, "0 or more"),
        ):
            if not good:
                raise ValueError(f"data.init_args.{name}: expected {wanted}, found {getattr(self, name)}")

    @property
    def identity(self) -> str:
        """All that the tensors depend on besides the attachments; cached features are of attachments made so."""
        return f"{self.attachment_size} px, {self.audio_rate} samples/s"


def with_attachment_tensors(sample: Sample, settings: AttachmentSettings) -> Sample:
    """The sample with a tensor as the `data` of each attachment, ready for `collate`.

    Pictures become float32 [3,h,w] in [-1,1], sounds float32 [n] in [-1,1]. `role` and `word` get their defaults. An
    answer leaves an empty slot, so that numbers stay those of the placeholders.

    Raises:
        SchemaError: an attachment that is missing, broken, too long, of a wrong kind or role, or one too many; its
            reason is a key of `faults.REASONS`.
        FeatureError: the sample has cached features that were computed with other settings.
        AudioSupportError: a sound, and no soundfile to read it.
    """
    check_attachments(sample)
    entries = sample.get("attachments", [])
    count = max((number for number, entry in enumerate(entries, 1) if entry.get("role") != ANSWER), default=0)
    if count > settings.max_attachments:
        raise SchemaError(
            f"sample {sample.get('key')!r}: {count} attachments, at most max_attachments={settings.max_attachments} "
            "are read",
            "attachment",
        )
    if not entries:
        return sample
    facts = sample["features"].facts if "features" in sample else {}
    if (found := facts.get(ATTACHMENTS, settings.identity)) != settings.identity:
        raise FeatureError(
            f"cached features are of attachments of {found!r}, this configuration makes {settings.identity!r}; give "
            "the settings of the cache, or write it anew with `python -m mmig.run.cache`"
        )
    slots = [_slot(sample, number, entry, settings) for number, entry in enumerate(entries[:count])]
    return cast(Sample, {**sample, "attachments": slots})


def answers(sample: Mapping[str, Any]) -> dict[int, Attachment]:
    """The attachments of a sample that only scoring may see, by their numbers."""
    entries = enumerate(sample.get("attachments", ()))
    return {number: entry for number, entry in entries if entry.get("role") == ANSWER}


def words_in(batch: Mapping[str, Any], row: int, field: str) -> tuple[str, list[Span | None]]:
    """A text of a batch without placeholders, and where in it the word of each attachment of the sample is.

    Args:
        batch: with the texts that `collate` gave it. row: which sample. field: "instruction" or "target_caption".

    Returns:
        The text, and for each attachment the first character of its word and the one behind its last; None for one
        that has no word in this text.
    """
    text, texts = batch[field][row], {name: batch[name][row] for name in PLACEHOLDER_FIELDS}
    here: dict[int, Span | None] = {}
    for found in placeholders(text):
        here.setdefault(found.number, found.word)
    words = [
        word if text_of(texts, number) == field else here.get(number)
        for number, word in enumerate(batch["attachment_words"][row])
    ]
    return without_placeholders_but_words(text, words)


def stack_attachments(samples: Sequence[Mapping[str, Any]], size: int | None) -> dict[str, Any]:
    """The fields of a batch about attachments; see `Batch`.

    Args:
        samples: from `with_attachment_tensors`. size: side of the pictures; default that of the first one found.

    Raises:
        SchemaError: an attachment that is no tensor yet, or pictures of different sizes.
    """
    slots = [sample.get("attachments", ()) for sample in samples]
    shape = len(samples), max(len(of_sample) for of_sample in slots)
    for sample, of_sample in zip(samples, slots, strict=True):
        for number, entry in enumerate(of_sample):
            if entry["kind"] and not isinstance(entry["data"], Tensor):
                raise SchemaError(
                    f"sample {sample['key']!r}, field 'attachments[{number}]': expected a tensor, found "
                    f"{type(entry['data']).__name__}: call with_attachment_tensors"
                )
    images, has_images = _stack_pictures(_of_kind(slots, "image"), shape, size)
    audio, lengths, has_audio = _stack_sounds(_of_kind(slots, "audio"), shape)
    return {
        "attachment_images": images,
        "attachment_audio": audio,
        "attachment_audio_samples": lengths,
        "has_attachment_images": has_images,
        "has_attachment_audio": has_audio,
        "has_attachments": torch.tensor([any(entry["kind"] for entry in of_sample) for of_sample in slots]),
        **{
            f"attachment_{name}s": [[entry[name] for entry in of_sample] for of_sample in slots]
            for name in ("kind", "role", "word")
        },
    }


def no_attachments(count: int) -> dict[str, Any]:
    """The same fields of so many samples without any attachment."""
    return stack_attachments([{}] * count, None)


def _of_kind(slots: Sequence[Sequence[Mapping[str, Any]]], kind: str) -> _Found:
    entries = ((row, number, entry) for row, of_sample in enumerate(slots) for number, entry in enumerate(of_sample))
    return {(row, number): entry["data"] for row, number, entry in entries if entry["kind"] == kind}


def _stack_pictures(found: _Found, shape: tuple[int, int], size: int | None) -> tuple[Tensor, Tensor]:
    sizes = sorted({tuple(picture.shape[1:]) for picture in found.values()})
    if len(sizes) > 1:
        raise SchemaError(f"attachments: expected pictures of one size in a batch, found {sizes}")
    high, wide = sizes[0] if sizes else (size or AttachmentSettings.attachment_size,) * 2
    images, has = torch.zeros(*shape, 3, high, wide), torch.zeros(shape, dtype=torch.bool)
    for place, picture in found.items():
        images[place], has[place] = picture, True
    return images, has


def _stack_sounds(found: _Found, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    audio = torch.zeros(*shape, max(map(len, found.values()), default=0))
    lengths, has = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
    for place, sound in found.items():
        audio[place][: len(sound)] = sound
        lengths[place], has[place] = len(sound), True
    return audio, lengths, has


def _slot(sample: Sample, number: int, entry: Attachment, settings: AttachmentSettings) -> dict[str, Any]:
    if entry.get("role") == ANSWER:
        return _EMPTY_SLOT
    field = f"attachments[{number}]"
    try:
        data = _tensor(field, entry, settings)
    except BadSample as bad:
        raise SchemaError(f"sample {sample.get('key')!r}: {bad.detail}", bad.reason) from bad
    if "word" in entry:
        word = entry["word"] and tuple(entry["word"])
    else:
        text = sample.get(text_of(sample, number), "")
        word = next((found.word for found in placeholders(cast(str, text)) if found.number == number), None)
    return {"kind": entry["kind"], "role": entry.get("role", DEFAULT_ROLE), "word": word, "data": data}


def _tensor(field: str, entry: Attachment, settings: AttachmentSettings) -> Tensor:
    data = entry["data"]
    if entry["kind"] == "audio":
        return decode_audio(field, cast(bytes, data), settings.audio_rate, settings.audio_seconds)
    image = to_rgb(data) if isinstance(data, Image.Image) else decode_image(field, data)
    square = (settings.attachment_size, settings.attachment_size)
    if image.size != square:
        image = image.resize(square, Image.Resampling.LANCZOS)
    return image_to_tensor(image)
