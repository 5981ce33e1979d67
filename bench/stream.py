"""Does the stream cost anything? Samples/s of ShardStream against the bare decode, and against webdataset.

Pairs of 256 px JPEG photographs are made on the fly and written as shards. Three ways to make the same float batches
from them, each in this one process on one thread, alternating; medians over rounds of the processor time, so other work
on the machine does not bend the ratio (files are in the page cache; nobody waits for a disk):
  decode      the same members, read at known offsets, decoded and stacked in a plain loop: no order, index or checks
  stream      ShardStream: shuffled, checksums compared, faults counted, resumable
  webdataset  WebDataset().shuffle().decode("pil"), to tensors, batched, as its documentation shows
`--workers N` gives all three N processes and compares wall-clock time instead; then the machine should be quiet.

    python bench/stream.py [--rounds 7] [--samples 512] [--workers 0]
"""

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import webdataset
from PIL import Image
from skimage import data as photographs
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.decode import decode
from datamodules.schema import Batch, Sample, collate
from datamodules.shards import ShardIndex, write_shards
from datamodules.stream import ShardStream
from datamodules.tar_index import MemberIndex
from datamodules.transforms import ImageTransform

SIDE, BATCH_SIZE = 256, 16
Places = list[tuple[str, str, list[tuple[str, int, int]]]]


def make_pairs(count: int) -> Iterator[Sample]:
    """Windows of real photographs as JPEG pairs, about as large as those of the published edit datasets."""
    sources = [Image.fromarray(load()) for load in (photographs.astronaut, photographs.chelsea, photographs.coffee)]
    draws = np.random.default_rng(0)
    for number in range(count):
        photograph = sources[number % len(sources)]
        left, top = (int(draws.integers(0, side - SIDE + 1)) for side in photograph.size)
        source = photograph.crop((left, top, left + SIDE, top + SIDE))
        encoded = [_jpeg(image) for image in (source, source.transpose(Image.Transpose.ROTATE_180))]
        yield {
            "key": f"{number:06d}",
            "source": encoded[0],
            "target": encoded[1],
            "instruction": "turn it upside down",
            "response": f"photograph {number}, upside down",
        }


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class BareDecode(Dataset[Batch]):
    """Batch number -> decoded batch, from offsets known beforehand: what no reader of these files can avoid."""

    def __init__(self, index: ShardIndex) -> None:
        self.files = {row.name: index.tar_path(row.name).open("rb") for row in index.shards}
        self.places: Places = []
        for row in index.shards:
            members = MemberIndex(index.member_path(row.name))
            for sample in range(len(members)):
                found = members.members(sample)
                self.places.append((row.name, found[0].key, [(m.field, m.offset, m.size) for m in found]))

    def __len__(self) -> int:
        return len(self.places) // BATCH_SIZE

    def __getitem__(self, number: int) -> Batch:
        samples = []
        for name, key, members in self.places[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]:
            file = self.files[name].fileno()
            samples.append(decode(key, {field: os.pread(file, size, offset) for field, offset, size in members}))
        return collate(samples)


def to_tensors(sample: dict) -> dict:
    """What webdataset decoded -> the same tensors and texts as ours."""
    return {
        "key": sample["__key__"],
        "source": _tensor(sample["source.jpg"]),
        "target": _tensor(sample["target.jpg"]),
        "instruction": sample["json"]["instruction"],
        "response": sample["json"]["response"],
    }


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def webdataset_pipeline(index: ShardIndex, workers: int) -> DataLoader:
    """The usual pipeline: shards, shuffle buffer, decode, map, batches."""
    urls = [str(index.tar_path(row.name)) for row in index.shards]
    dataset = webdataset.WebDataset(urls, shardshuffle=100).shuffle(256).decode("pil").map(to_tensors)
    return DataLoader(dataset, BATCH_SIZE, num_workers=workers, persistent_workers=workers > 0)


def seconds(batches: Iterable, clock: Callable[[], float]) -> float:
    """Time a sample over one epoch."""
    start, count = clock(), 0
    for batch in batches:
        assert batch["source"].shape[1:] == batch["target"].shape[1:] == (3, SIDE, SIDE)
        count += len(batch["key"])
    return (clock() - start) / count


def main() -> None:
    """Measure and print the two ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.perf_counter if options.workers else time.process_time
    with tempfile.TemporaryDirectory() as folder:
        index = write_shards(make_pairs(options.samples), Path(folder) / "pairs", 64)
        stream = ShardStream(
            index, global_batch_size=BATCH_SIZE, seed=0, num_workers=options.workers, transform=ImageTransform(SIDE)
        )
        settings = {"num_workers": options.workers, "persistent_workers": options.workers > 0}
        sides: dict[str, Iterable] = {
            "decode": DataLoader(BareDecode(index), batch_size=None, collate_fn=lambda batch: batch, **settings),
            "stream": stream,
            "webdataset": webdataset_pipeline(index, options.workers),
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(options.rounds + 1):
            for name, batches in sides.items():
                taken = seconds(batches, clock)
                if number:  # the first round warms up
                    times[name].append(taken)
    middle = {name: median(taken) for name, taken in times.items()}
    print(", ".join(f"{name} {1 / taken:.0f} samples/s" for name, taken in middle.items()))
    print(f"stream_vs_decode ratio {middle['decode'] / middle['stream']:.3f} (goal >= 0.90)")
    print(f"stream_vs_webdataset ratio {middle['webdataset'] / middle['stream']:.3f} (goal >= 1.0)")


if __name__ == "__main__":
    main()
