"""The one way from samples to a batch, and from a batch to a part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.attachments import stack_attachments
from datamodules.features import PREFIX, stack
from datamodules.pixels import to_rgb
from datamodules.sample import IMAGE_FIELDS, MASK_FIELDS, TEXT_FIELDS, Batch, Fault, SchemaError
from datamodules.tensors import fill_image, mask_to_tensor


def collate(
    samples: Sequence[Mapping[str, Any]],
    *,
    positions: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    attachment_size: int | None = None,
    faults: Sequence[Fault] = (),
) -> Batch:
    """Turn decoded samples (PIL images and masks, all of one size, attachments as tensors) into a batch.

    Args:
        samples: at least one sample; images PIL, not encoded bytes.
        positions: each sample's place in the stream; default 0..B-1.
        size: (height, width) of the tensors; default that of the first image or mask found.
        attachment_size: side of the pictures attached where there are none; only then it counts.
        faults: what went wrong while these samples were read; handed on under `faults`.

    Raises:
        SchemaError: no sample, an image still encoded, an attachment that is no tensor, images of different sizes, no
            image at all and no `size`.
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
    batch |= stack_attachments(samples, attachment_size)
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
    value = to_rgb(value) if field in IMAGE_FIELDS else value
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
