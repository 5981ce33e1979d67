"""Samples for the golden curves: made here from a seed, so that no change of the small world moves a curve."""

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.schema import Batch, Sample, collate

SIZE = 64
BATCH_SIZE = 4
SHAPES = ("circle", "square", "ring", "triangle")
COLOURS = {"red": (200, 40, 40), "blue": (40, 60, 200), "green": (40, 160, 60)}


def make_sample(index: int) -> Sample:
    """Sample `index` with every field of the schema, except that of six one lacks a text, a mask or its source."""
    draw = np.random.default_rng(index)
    shape, (colour, pixels) = SHAPES[index % len(SHAPES)], list(COLOURS.items())[index % len(COLOURS)]
    left, top = draw.integers(4, 28, size=2)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[top : top + 24, left : left + 24] = 255
    source = draw.integers(0, 256, (SIZE // 8, SIZE // 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    target = np.where(mask[..., None] > 0, np.array(pixels, np.uint8), source)
    sample: Sample = {
        "key": f"golden-{index}",
        "source": Image.fromarray(source),
        "target": Image.fromarray(target),
        "target_mask": Image.fromarray(mask),
        "reference_mask": Image.fromarray(np.roll(mask, 4, axis=0)),
        "instruction": f"put a {colour} {shape} on it",
        "response": f"a {colour} {shape} on a white background",
        "source_caption": "a white background",
        "target_caption": f"a {colour} {shape}",
        "object_phrase": f"a {colour} {shape}",
        "background_phrase": "a white background",
        "edit_type": "add",
        "concepts": [{"phrase": f"{colour} {shape}", "mask": Image.fromarray(mask)}, {"phrase": "white background"}],
    }
    lacking = {1: "response", 2: "reference_mask", 3: "source", 4: "target_caption"}.get(index % 6)
    if lacking is not None:
        del sample[lacking]  # type: ignore[misc]
    return sample


def make_batch(number: int) -> Batch:
    """Batch `number` of the endless stream of these samples."""
    positions = range(number * BATCH_SIZE, (number + 1) * BATCH_SIZE)
    return collate([make_sample(position) for position in positions], positions=list(positions))


def loader(first: int, count: int) -> DataLoader:
    """`count` batches of the stream from batch `first` on."""
    return DataLoader([make_batch(first + number) for number in range(count)], batch_size=None, collate_fn=_same)  # type: ignore[arg-type]


def _same(batch: Batch) -> Batch:
    return batch
