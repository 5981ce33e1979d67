"""The sample and the batch: field names, shapes and ranges, and what a sample must be; see `schema` for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Required, TypedDict

from PIL import Image
from torch import Tensor

from datamodules.features import Features
from datamodules.placeholders import PLACEHOLDER_FIELDS, Span, placeholders

IMAGE_FIELDS: tuple[str, ...] = ("source", "target")
MASK_FIELDS: tuple[str, ...] = ("target_mask", "reference_mask")
TEXT_FIELDS: tuple[str, ...] = (
    "instruction",
    "response",
    "expressive",
    "source_caption",
    "target_caption",
    "object_phrase",
    "background_phrase",
)
ATTACHMENT_KINDS: tuple[str, ...] = ("image", "audio")
ATTACHMENT_ROLES: tuple[str, ...] = ("subject", "style", "base", "reference", "answer")
DEFAULT_ROLE = "reference"
ANSWER = "answer"
"""Role of what only scoring may see."""
AUDIO_FORMATS: tuple[str, ...] = ("wav", "flac", "ogg")


class SchemaError(ValueError):
    """A sample or batch that breaks the schema; one line says which sample, which field and what was expected.

    `reason` is what it counts as where the stream meets it, a key of `faults.REASONS`.
    """

    def __init__(self, message: str, reason: str = "field") -> None:
        super().__init__(message)
        self.reason = reason


class Concept(TypedDict, total=False):
    """A phrase found in the response and, where known, where it is in the target image."""

    phrase: Required[str]
    mask: Image.Image | bytes


class Attachment(TypedDict, total=False):
    """What `<image:k>` or `<audio:k>` stands for: `attachments[k]` of a sample.

    `kind` is one of `ATTACHMENT_KINDS`, `role` one of `ATTACHMENT_ROLES` (default: `DEFAULT_ROLE`), `data` a PIL image
    or encoded bytes; `format`, the file suffix of a sound, is one of `AUDIO_FORMATS`. `word` are the characters (start,
    end) of the word that it belongs to, in the text that `text_of` names, placeholders counted; None if there is none;
    default: the word directly behind its placeholder. See `attachments` for what becomes of it in a batch.
    """

    kind: Required[str]
    data: Required[Image.Image | bytes]
    role: str
    word: Span | list[int] | None
    format: str


class Sample(TypedDict, total=False):
    """One example. Required are `key` and one text or image; images: PIL RGB or encoded bytes; masks: PIL "L".

    `features` stand beside the images; a sample with them may keep `source` and `target` encoded up to the batch.
    """

    key: Required[str]
    source: Image.Image | bytes
    target: Image.Image | bytes
    target_mask: Image.Image | bytes
    reference_mask: Image.Image | bytes
    instruction: str
    response: str
    expressive: str
    source_caption: str
    target_caption: str
    object_phrase: str
    background_phrase: str
    edit_type: str
    concepts: list[Concept]
    attachments: list[Attachment]
    metadata: dict[str, Any]
    features: Features


class Fault(TypedDict):
    """A sample that could not be used: why (`faults.REASONS`), in which shard, its key, and the finding in words."""

    reason: str
    shard: str
    key: str
    detail: str


class Batch(TypedDict, total=False):
    """Collated samples; every optional field has `has_<field>` bool [B], absent tensors are zeros, absent texts "".

    `source`, `target` float32 [B,3,H,W] in [-1,1]; masks float32 [B,1,H,W] in {0,1}; `concept_masks` float32
    [B,K,H,W] in {0,1} with `has_concept_masks` bool [B,K], K the most concepts a sample of this batch has;
    `position` int64 [B], the place of each sample in the endless stream; `repeated` bool [B], from streams only: the
    sample only fills up a short last batch (in evaluation: or stands in for a bad one) and counts elsewhere; `faults`
    those met while making this batch.

    `attachment_images` float32 [B,K,3,h,w] in [-1,1]; `attachment_audio` float32 [B,K,n] in [-1,1], zeros behind the
    true lengths `attachment_audio_samples` int64 [B,K]; K the most attachments of a sample of this batch, n the longest
    sound; `has_attachment_images`, `has_attachment_audio` bool [B,K], `has_attachments` bool [B]. Slot k is what
    `<image:k>` or `<audio:k>` stands for; that of an answer is empty (kind ""). `attachment_words` are those of
    `Attachment`, the default filled in.

    Of samples with features also what `features.stack` says; an image field that they keep encoded is not there, and
    its `has_<field>` says whether the sample has one.
    """

    key: list[str]
    position: Tensor
    repeated: Tensor
    source: Tensor
    target: Tensor
    target_mask: Tensor
    reference_mask: Tensor
    instruction: list[str]
    response: list[str]
    expressive: list[str]
    source_caption: list[str]
    target_caption: list[str]
    object_phrase: list[str]
    background_phrase: list[str]
    edit_type: list[str]
    concepts: list[list[str]]
    concept_masks: Tensor
    attachment_images: Tensor
    attachment_audio: Tensor
    attachment_audio_samples: Tensor
    attachment_kinds: list[list[str]]
    attachment_roles: list[list[str]]
    attachment_words: list[list[Span | None]]
    metadata: list[dict[str, Any]]
    has_source: Tensor
    has_target: Tensor
    has_target_mask: Tensor
    has_reference_mask: Tensor
    has_instruction: Tensor
    has_response: Tensor
    has_expressive: Tensor
    has_source_caption: Tensor
    has_target_caption: Tensor
    has_object_phrase: Tensor
    has_background_phrase: Tensor
    has_concept_masks: Tensor
    has_attachment_images: Tensor
    has_attachment_audio: Tensor
    has_attachments: Tensor
    faults: list[Fault]


def validate(sample: Mapping[str, Any]) -> None:
    """Check the types of every field of `sample`, and that placeholders and attachments fit each other.

    Raises:
        SchemaError: naming the sample, the field, what was expected and what was found.
    """
    key = sample.get("key")
    if not isinstance(key, str) or not key or any(c in key for c in "./\\\n\0"):
        raise SchemaError(f"key: expected a non-empty str without '.', '/' or line breaks, found {key!r}")
    if unknown := set(sample) - set(Sample.__annotations__):
        raise SchemaError(f"sample {key!r}: unknown field {min(unknown)!r}; known: {sorted(Sample.__annotations__)}")
    expected = {
        **dict.fromkeys((*IMAGE_FIELDS, *MASK_FIELDS), (Image.Image, bytes)),
        **dict.fromkeys((*TEXT_FIELDS, "edit_type"), (str,)),
        **dict.fromkeys(("concepts", "attachments"), (list,)),
        "metadata": (dict,),
        "features": (Features,),
    }
    for field, types in expected.items():
        if field in sample:
            _expect(key, field, sample[field], *types)
    for number, concept in enumerate(sample.get("concepts", ())):
        _expect(key, f"concepts[{number}]", concept, dict)
        _expect(key, f"concepts[{number}].phrase", concept.get("phrase"), str)
        if "mask" in concept:
            _expect(key, f"concepts[{number}].mask", concept["mask"], Image.Image, bytes)
    check_attachments(sample)
    if not any(sample.get(field) for field in (*TEXT_FIELDS, *IMAGE_FIELDS)):
        raise SchemaError(f"sample {key!r}: expected at least one text or image, found none")


def texts(sample: Mapping[str, Any]) -> list[str]:
    """Every text of a sample that may speak about the picture: its text fields and its concepts' phrases."""
    return [sample.get(field, "") for field in TEXT_FIELDS] + [c["phrase"] for c in sample.get("concepts", ())]


def _expect(key: str, field: str, value: Any, *types: type) -> None:
    if not isinstance(value, types):
        wanted = " or ".join(kind.__name__ for kind in types)
        raise SchemaError(f"sample {key!r}, field {field!r}: expected {wanted}, found {type(value).__name__}")


def check_attachments(sample: Mapping[str, Any]) -> None:
    """Check that each attachment is whole and of a known kind and role, and that each placeholder has its attachment.

    Raises:
        SchemaError: as `validate`; its reason is "attachment", or "format" for a sound of another format.
    """
    entries = sample.get("attachments", ())
    for number, entry in enumerate(entries):
        _check_attachment(sample, number, entry)
    for field in PLACEHOLDER_FIELDS:
        for found in placeholders(sample.get(field, "")):
            entry = entries[found.number] if found.number < len(entries) else {}
            if entry.get("kind") != found.kind or entry.get("role") == ANSWER:
                is_there = f"{entry['kind']}, {entry.get('role', '')}".rstrip(", ") if entry else "no such attachment"
                raise _wrong(sample, field, f"<{found.kind}:{found.number}> to be an attachment to show", is_there)


def _check_attachment(sample: Mapping[str, Any], number: int, entry: Any) -> None:
    name = f"attachments[{number}]"
    if not isinstance(entry, dict):
        raise _wrong(sample, name, "dict", type(entry).__name__)
    kind, data, role = entry.get("kind"), entry.get("data"), entry.get("role", DEFAULT_ROLE)
    if kind not in ATTACHMENT_KINDS:
        raise _wrong(sample, f"{name}.kind", f"one of {', '.join(ATTACHMENT_KINDS)}", repr(kind))
    if role not in ATTACHMENT_ROLES:
        raise _wrong(sample, f"{name}.role", f"one of {', '.join(ATTACHMENT_ROLES)}", repr(role))
    if not isinstance(data, bytes if kind == "audio" else Image.Image | bytes):
        wanted = "the bytes of a sound" if kind == "audio" else "a picture or its bytes"
        raise _wrong(sample, f"{name}.data", wanted, "none" if data is None else type(data).__name__)
    if kind == "audio" and entry.get("format") not in AUDIO_FORMATS:
        wanted = f"one of {', '.join(AUDIO_FORMATS)}"
        raise _wrong(sample, f"{name}.format", wanted, repr(entry.get("format")), "format")
    if (word := entry.get("word")) is not None:
        text = sample.get(text_of(sample, number), "")
        if not _is_word(word, text):
            raise _wrong(sample, f"{name}.word", f"[start, end] of a word of {text[:80]!r}", repr(word))


def text_of(texts: Mapping[str, Any], number: int) -> str:
    """The field that `word` of attachment `number` speaks about.

    The target caption, or else the instruction, whichever holds its placeholder; without one, whichever is there.
    """
    fields = [field for field in reversed(PLACEHOLDER_FIELDS) if texts.get(field)]
    holding = (field for field in fields if any(found.number == number for found in placeholders(texts[field])))
    return next(holding, fields[0] if fields else PLACEHOLDER_FIELDS[0])


def _is_word(word: Any, text: str) -> bool:
    if not isinstance(word, list | tuple) or len(word) != 2 or not all(type(place) is int for place in word):
        return False
    start, end = word
    apart = all(end <= found.start or found.end <= start for found in placeholders(text))
    return 0 <= start < end <= len(text) and apart


def _wrong(sample: Mapping[str, Any], field: str, wanted: str, found: str, reason: str = "attachment") -> SchemaError:
    return SchemaError(f"sample {sample.get('key')!r}, field {field!r}: expected {wanted}, found {found}", reason)
