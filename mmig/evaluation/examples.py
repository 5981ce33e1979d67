"""Which samples a grid shows, and their pictures."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmig.editor import EditOutput
from mmig.evaluation.grid import Example, varied
from mmig.metrics.images import signed_to_unit, to_bytes

PlacedExample = tuple[int | None, Example]
"""With the place of its sample in the split, where the data say it."""


def places(batch: Mapping[str, Any]) -> list[int | None]:
    """Place of each sample in the split, whatever rank and batch has it; None where the data do not say it."""
    if "repeated" in batch:
        return batch["position"].tolist()
    return list(batch["number"]) if "number" in batch else [None] * len(batch["key"])


def chosen(found: Iterable[PlacedExample], num: int) -> list[Example]:
    """Of the examples of all ranks the first `num` of every edit type, and of these `num` varied ones."""
    seen: Counter[str] = Counter()
    first: dict[str, Example] = {}
    for _, example in sorted(found, key=lambda entry: -1 if entry[0] is None else entry[0]):
        seen[example.edit_type] += 1
        if seen[example.edit_type] <= num:
            first[example.key] = example
    return varied(first.values(), num)


def collect_examples(batch: Mapping[str, Any], output: EditOutput) -> list[Example]:
    """What a grid shows of every sample of a batch of which there is an image."""
    return [example for example in examples_of(batch, edited_pixels(output)) if example is not None]


def edited_pixels(output: EditOutput) -> list[NDArray[np.uint8] | None]:
    """Edited pictures, uint8 [H,W,3] each; None of samples that the editor has no image of."""
    edited = to_bytes(signed_to_unit(output.images, "edited"))
    missing = output.extras.get("missing") or [False] * len(edited)
    return [None if is_missing else pixels.numpy() for pixels, is_missing in zip(edited, missing, strict=True)]


def examples_of(batch: Mapping[str, Any], edited: Sequence[NDArray[np.uint8] | None]) -> list[Example | None]:
    """What a grid shows of each sample of a batch with its edited picture, uint8 [H,W,3]; None without one."""
    images = {name: to_bytes(signed_to_unit(batch[name], name)) for name in ("source", "target") if name in batch}
    return [
        Example(
            key=key,
            source=images["source"][row].numpy() if _has(batch, "source", row) else None,
            edited=edited[row],
            target=images["target"][row].numpy() if _has(batch, "target", row) else None,
            instruction=batch["instruction"][row] or batch["response"][row] or batch["target_caption"][row],
            edit_type=batch["edit_type"][row],
            references=_references(batch, row),
        )
        if edited[row] is not None
        else None
        for row, key in enumerate(batch["key"])
    ]


def _references(batch: Mapping[str, Any], row: int) -> tuple[NDArray[np.uint8], ...]:
    """Attached pictures of a sample; an answer is none that the editor has seen."""
    if "attachment_images" not in batch:
        return ()
    images, flags = batch["attachment_images"][row], batch["has_attachment_images"][row].tolist()
    roles = batch["attachment_roles"][row]
    shown = [number for number, there in enumerate(flags) if there and roles[number] != "answer"]
    return tuple(to_bytes(signed_to_unit(images[shown], "attachment_images")).numpy())


def _has(batch: Mapping[str, Any], name: str, row: int) -> bool:
    return name in batch and bool(batch.get(f"has_{name}", torch.ones(row + 1, dtype=torch.bool))[row])
