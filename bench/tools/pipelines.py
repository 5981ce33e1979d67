"""What `bench/stream.py` compares: the stream and other ways to make the same float batches from the same shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import datasets
import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.tools.photographs import photographs
from datamodules.decode import decode
from datamodules.images import decode_image
from datamodules.schema import Batch, Sample, collate
from datamodules.shard_index import ShardIndex
from datamodules.stream import ShardStream
from datamodules.tar_index import MemberIndex
from datamodules.transforms import ImageTransform

BATCH_SIZE = 16
Places = list[tuple[str, str, list[tuple[str, int, int]]]]
"""For each sample the name of its shard, its key, and field, offset and size of its files."""


def make_pairs(count: int, side: int) -> Iterator[Sample]:
    """Pairs of photographs as JPEGs, about as large as those of the published edit datasets."""
    encoded = list(photographs(64, side))
    for number in range(count):
        yield {
            "key": f"{number:06d}",
            "source": encoded[number % len(encoded)],
            "target": encoded[(number * 7 + 1) % len(encoded)],
            "instruction": "turn it upside down",
            "response": f"photograph {number}, upside down",
        }


class BareDecode(Dataset[Batch]):
    """Batch number -> decoded batch, from offsets known beforehand: what no reader of these files can avoid.

    With `batches=False` the images are decoded to pixels and let go of, and nothing becomes a batch of floats.
    """

    def __init__(self, index: ShardIndex, batches: bool = True) -> None:
        self.batches = batches
        self.files = {row.name: index.tar_path(row.name).open("rb") for row in index.shards}
        self.places: Places = []
        for number, row in enumerate(index.shards):
            members: MemberIndex = index.open_members(number)
            for sample in range(len(members)):
                found = members.members(sample)
                self.places.append((row.name, found[0].key, [(m.field, m.offset, m.size) for m in found]))

    def __len__(self) -> int:
        return len(self.places) // BATCH_SIZE

    def __getitem__(self, number: int) -> Batch:
        samples = []
        for name, key, members in self.places[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]:
            file = self.files[name].fileno()
            files = {field: os.pread(file, size, offset) for field, offset, size in members}
            if self.batches:
                samples.append(decode(key, files))
            else:
                for field, data in files.items():
                    if field.endswith(".jpg"):
                        decode_image(field, data)
        return collate(samples) if self.batches else {"key": [""] * BATCH_SIZE}


def bare_decode(index: ShardIndex, workers: int, batches: bool = True) -> DataLoader:
    """The loop that reads and decodes, and does nothing else."""
    settings = {"num_workers": workers, "persistent_workers": workers > 0}
    return DataLoader(BareDecode(index, batches), batch_size=None, collate_fn=lambda batch: batch, **settings)


def stream(index: ShardIndex, workers: int, side: int, scaled_decoding: bool = False) -> ShardStream:
    """Ours: shuffled, checksums compared, faults counted, resumable."""
    transform = ImageTransform(side, scaled_decoding=scaled_decoding)
    return ShardStream(index, global_batch_size=BATCH_SIZE, seed=0, num_workers=workers, transform=transform)


def webdataset_pipeline(index: ShardIndex, workers: int, side: int) -> Iterable[dict[str, Any]]:
    """The pipeline of webdataset's documentation: shards, shuffle buffer, Pillow, map, batches."""
    urls = [str(index.tar_path(row.name)) for row in index.shards]
    loaded = webdataset.WebDataset(urls, shardshuffle=100).shuffle(256).decode("pil")
    return DataLoader(
        loaded.map(lambda sample: _to_tensors(sample, side)),
        BATCH_SIZE,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def datasets_pipeline(index: ShardIndex, workers: int, side: int) -> Iterable[dict[str, Any]]:
    """Hugging Face's way to stream the same tars: `load_dataset("webdataset")`, shuffle buffer, map, batches."""
    urls = [str(index.tar_path(row.name)) for row in index.shards]
    loaded = datasets.load_dataset("webdataset", data_files=urls, split="train", streaming=True)
    return DataLoader(
        loaded.shuffle(0, buffer_size=256).map(
            lambda sample: _to_tensors(sample, side), remove_columns=loaded.column_names
        ),
        BATCH_SIZE,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def _to_tensors(sample: dict[str, Any], side: int) -> dict[str, Any]:
    return {
        "key": sample["__key__"],
        "source": _tensor(sample["source.jpg"], side),
        "target": _tensor(sample["target.jpg"], side),
        "instruction": sample["json"]["instruction"],
        "response": sample["json"]["response"],
    }


def _tensor(image: Image.Image, side: int) -> Tensor:
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
