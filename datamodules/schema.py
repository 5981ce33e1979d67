"""The sample and the batch: field names, shapes and ranges; the one way from samples to a batch and to a part of it.

Nothing here reads files or draws random numbers; see `shards` for the former and `transforms` for the latter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Required, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.features import PREFIX, Features, stack
from datamodules.tensors import fill_image, mask_to_tensor
from datamodules.tensors import image_to_tensor as image_to_tensor  # the library knows `schema` alone

IMAGE_FIELDS: tuple[str, ...] = ("source", "target")
MASK_FIELDS: tuple[str, ...] = ("target_mask", "reference_mask")
TEXT_FIELDS: tuple[str, ...] = (
    "instruction",
    "response",
    "source_caption",
    "target_caption",
    "object_phrase",
    "background_phrase",
)


class SchemaError(ValueError):
    """A sample or batch that breaks the schema; one line says which sample, which field and what was expected."""


class Concept(TypedDict, total=False):
    """A phrase found in the response and, where known, where it is in the target image."""

    phrase: Required[str]
    mask: Image.Image | bytes


class Attachment(TypedDict, total=False):
    """What `<image:k>` or `<audio:k>` in the instruction stands for; `format` is the file suffix of encoded `data`."""

    kind: Required[str]
    data: Required[Image.Image | bytes]
    role: str
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
    """A sample that could not be used: why (`decode.REASONS`), in which shard, its key, and the finding in words."""

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
    source_caption: list[str]
    target_caption: list[str]
    object_phrase: list[str]
    background_phrase: list[str]
    edit_type: list[str]
    concepts: list[list[str]]
    concept_masks: Tensor
    attachments: list[list[Attachment]]
    metadata: list[dict[str, Any]]
    has_source: Tensor
    has_target: Tensor
    has_target_mask: Tensor
    has_reference_mask: Tensor
    has_instruction: Tensor
    has_response: Tensor
    has_source_caption: Tensor
    has_target_caption: Tensor
    has_object_phrase: Tensor
    has_background_phrase: Tensor
    has_concept_masks: Tensor
    faults: list[Fault]


def validate(sample: Mapping[str, Any]) -> None:
    """Check the types of every field of `sample`.

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
    for number, attachment in enumerate(sample.get("attachments", ())):
        _expect(key, f"attachments[{number}]", attachment, dict)
        _expect(key, f"attachments[{number}].kind", attachment.get("kind"), str)
        _expect(key, f"attachments[{number}].data", attachment.get("data"), Image.Image, bytes)
    if not any(sample.get(field) for field in (*TEXT_FIELDS, *IMAGE_FIELDS)):
        raise SchemaError(f"sample {key!r}: expected at least one text or image, found none")


def texts(sample: Mapping[str, Any]) -> list[str]:
    """Every text of a sample that may speak about the picture: its text fields and its concepts' phrases."""
    return [sample.get(field, "") for field in TEXT_FIELDS] + [c["phrase"] for c in sample.get("concepts", ())]


def collate(
    samples: Sequence[Mapping[str, Any]],
    *,
    positions: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    faults: Sequence[Fault] = (),
) -> Batch:
    """Turn decoded samples (PIL images and masks, all of one size) into a batch.

    Args:
        samples: at least one sample; images PIL, not encoded bytes.
        positions: each sample's place in the stream; default 0..B-1.
        size: (height, width) of the tensors; default that of the first image or mask found.
        faults: what went wrong while these samples were read; handed on under `faults`.

    Raises:
        SchemaError: no sample, an image still encoded, images of different sizes, no image at all and no `size`.
        FeatureError: features that do not fit each other.
    """
    if not samples:
        raise SchemaError("collate: expected at least one sample, found none")
    size = size or _first_size(samples)
    batch: dict[str, Any] = {
        "key": [sample["key"] for sample in samples],
        "position": torch.as_tensor(
            list(positions if positions is not None else range(len(samples))), dtype=torch.int64
        ),
        "edit_type": [sample.get("edit_type", "") for sample in samples],
        "concepts": [[concept["phrase"] for concept in sample.get("concepts", ())] for sample in samples],
        "attachments": [list(sample.get("attachments", ())) for sample in samples],
        "metadata": [sample.get("metadata", {}) for sample in samples],
        "faults": list(faults),
    }
    for field in TEXT_FIELDS:
        batch[field] = [sample.get(field, "") for sample in samples]
        batch[f"has_{field}"] = torch.tensor([bool(text) for text in batch[field]])
    for field in (*IMAGE_FIELDS, *MASK_FIELDS):
        if any("features" in sample and isinstance(sample.get(field), bytes) for sample in samples):
            batch[f"has_{field}"] = _has(samples, field)
        else:
            batch[field], batch[f"has_{field}"] = _stack(samples, field, size)
    batch |= stack(samples)
    batch["concept_masks"], batch["has_concept_masks"] = _stack_concepts(samples, size)
    return batch  # type: ignore[return-value]


def take(batch: Mapping[str, Any], rows: Sequence[int] | slice) -> Batch:
    """Some samples of a batch, or all of them in another order.

    Tensors and lists with one entry a sample are taken; `faults` and whatever else there is goes along whole.

    Args:
        rows: their numbers, in the order that is wanted; or a slice, which gives views of the tensors.
    """
    count, numbers = len(batch["key"]), rows if isinstance(rows, slice) else list(rows)
    taken = dict(batch)
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.shape[:1] == (count,):
            taken[name] = value[numbers]
        elif isinstance(value, list) and len(value) == count and name != "faults":
            taken[name] = value[numbers] if isinstance(numbers, slice) else [value[number] for number in numbers]
    return taken  # type: ignore[return-value]


def cached_feature(batch: Mapping[str, Any], name: str) -> tuple[Tensor, Tensor] | None:
    """A feature of a batch [B,n,...] and how many rows each sample has, int64 [B]; None if the samples lack it."""
    values = batch.get(PREFIX + name)
    return None if values is None else (values, batch[f"{PREFIX}{name}.rows"])


def _expect(key: str, field: str, value: Any, *types: type) -> None:
    if not isinstance(value, types):
        wanted = " or ".join(kind.__name__ for kind in types)
        raise SchemaError(f"sample {key!r}, field {field!r}: expected {wanted}, found {type(value).__name__}")


def _first_size(samples: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    for sample in samples:
        for field in (*IMAGE_FIELDS, *MASK_FIELDS):
            if isinstance(sample.get(field), Image.Image):
                return sample[field].height, sample[field].width
    raise SchemaError(f"sample {samples[0]['key']!r} and its batch hold no decoded image: give `size` (height, width)")


def _fill(out: Tensor, value: Any, key: str, field: str) -> None:
    if not isinstance(value, Image.Image):
        raise SchemaError(
            f"sample {key!r}, field {field!r}: expected a decoded PIL image, found {type(value).__name__}"
        )
    if value.size[::-1] != out.shape[-2:]:
        wanted = f"{out.shape[-1]}x{out.shape[-2]}"
        found = f"{value.width}x{value.height}"
        raise SchemaError(
            f"sample {key!r}, field {field!r}: expected {wanted} pixels as the batch, found {found}: resize"
        )
    if field in IMAGE_FIELDS:
        fill_image(out, value)
    else:
        out.copy_(mask_to_tensor(value))


def _stack(samples: Sequence[Mapping[str, Any]], field: str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    shape = len(samples), 3 if field in IMAGE_FIELDS else 1, *size
    has = _has(samples, field)
    if not has.any():
        return torch.from_numpy(np.zeros(shape, np.float32)), has  # pages that nobody touches cost nothing
    out = torch.empty(shape)
    for row, sample in zip(out, samples, strict=True):
        if field in sample:
            _fill(row, sample[field], sample["key"], field)
        else:
            row.zero_()
    return out, has


def _has(samples: Sequence[Mapping[str, Any]], field: str) -> Tensor:
    return torch.tensor([field in sample for sample in samples])


def _stack_concepts(samples: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    concepts = [sample.get("concepts", ()) for sample in samples]
    most = max(len(of_sample) for of_sample in concepts)
    out, has = torch.zeros(len(samples), most, *size), torch.zeros(len(samples), most, dtype=torch.bool)
    for row, of_sample in enumerate(concepts):
        for number, concept in enumerate(of_sample):
            if "mask" in concept:
                _fill(out[row, number : number + 1], concept["mask"], samples[row]["key"], f"concepts[{number}].mask")
                has[row, number] = True
    return out, has
