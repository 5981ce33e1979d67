"""What the stream costs: speed against other readers of the same shards, memory, start-up and resuming at scale.

Speed: pairs of JPEG photographs of 256 and 512 px are written as shards. Ways to make the same float batches from them
(see `bench/tools/pipelines.py`), in this one process on one thread, alternating; medians over rounds of the processor
time, so other work on the machine does not bend the ratio (files are in the page cache; nobody waits for a disk):
  decode      the same members, read at known offsets, decoded and stacked in a plain loop: no order, index or checks
  pixels      the same without the float batch: the decoder alone (no goal; what is left to gain)
  stream      ShardStream: shuffled, checksums compared, faults counted, resumable
  webdataset  WebDataset().shuffle().decode("pil"), to tensors, batched, as its documentation shows
  datasets    load_dataset("webdataset", streaming=True).shuffle(), to tensors, batched
At 512 to 256 px the stream decodes scaled, webdataset decodes with Pillow and resizes bilinearly.
`--workers N` gives all of them N processes and compares wall-clock time instead; then the machine should be quiet.

Scale: memory over 100,000 samples of 64 px in this process; start-up and first batch on an index of 40,000 shards of
10,000 samples (LAION-400M), and resuming at five places of its epoch, each as a share of what is allowed.

    python bench/stream.py [--rounds 7] [--workers 0] [--keep-memory] [--only speed|memory|scale]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import datasets
import torch

from bench.tools.clock import alternate, seconds
from bench.tools.large_index import make_large_index
from bench.tools.pipelines import bare_decode, datasets_pipeline, make_pairs, stream, webdataset_pipeline
from datamodules.shards import write_shards
from mmig.base.commands import OptionParser, keep_freed_memory

ROOT = Path(__file__).resolve().parent.parent
SPEED_SAMPLES, MEMORY_SAMPLES, WARM_UP_SAMPLES = 512, 100_000, 20_000
MOST_START_S, MOST_START_MB, MOST_RESUME_S = 5.0, 500.0, 2.0


def compare_speed(folder: Path, options: argparse.Namespace) -> None:
    """Print the ratios at 256 px, at 512 px, and from 512 to 256 px."""
    clock = 0 if options.workers else 1
    for stored, side in ((256, 256), (512, 512), (512, 256)):
        index = write_shards(make_pairs(SPEED_SAMPLES, stored), folder / f"{stored}-{side}", 64)
        workers = options.workers
        sides: dict[str, Iterable] = {
            "stream": stream(index, workers, side, scaled_decoding=stored > side),
            "webdataset": webdataset_pipeline(index, workers, side),
        }
        if stored == side:
            sides["decode"] = bare_decode(index, workers)
            sides["pixels"] = bare_decode(index, workers, batches=False)
            sides["datasets"] = datasets_pipeline(index, workers, side)
        epochs = {name: partial(deque, batches, maxlen=0) for name, batches in sides.items()}
        found = {name: seconds(times, clock) for name, times in alternate(epochs, options.rounds).items()}
        case = str(side) if stored == side else f"{stored}_to_{side}"
        speeds = ", ".join(f"{name} {SPEED_SAMPLES / taken:.0f}" for name, taken in found.items())
        print(f"{case} px, samples (two images) a second: {speeds}")
        goals = {"decode": ">= 0.90", "pixels": "none", "datasets": ">= 1.5"}
        goals["webdataset"] = ">= 1.0" if stored == side else ">= 2.0"
        for name in goals:
            if name in found:
                ratio = found[name] / found["stream"]
                print(f"stream_{case}_vs_{name} ratio {ratio:.3f} (goal {goals[name]})", flush=True)


def measure_memory(folder: Path) -> None:
    """Print the growth of this process over 100,000 samples, after it has warmed up."""
    index = write_shards(make_pairs(5_000, 64), folder / "small", 50)
    batches = stream(index, 0, 64)
    sizes: dict[int, float] = {}
    while batches.samples < WARM_UP_SAMPLES + MEMORY_SAMPLES:
        for _ in batches:
            if batches.samples % WARM_UP_SAMPLES < batches.global_batch_size:
                sizes[batches.samples // WARM_UP_SAMPLES] = _resident_megabytes()
    grown = max(sizes.values()) / sizes[1]
    print(f"stream_memory ratio {grown:.3f} (goal < 1.05; {sizes[1]:.0f} MB, {MEMORY_SAMPLES} samples later the same)")


def measure_scale(folder: Path) -> None:
    """Print start-up and resuming on an index of 40,000 shards, in a process of its own."""
    make_large_index(folder / "large")
    command = [sys.executable, "-m", "bench.tools.large_index", str(folder / "large")]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    start, slowest = found["start_s"], max(found["resume_s"].values())
    size = found["start_mb"] - found["imports_mb"]
    places = ", ".join(f"{share} {taken:.2f} s" for share, taken in found["resume_s"].items())
    print(f"stream_start_time ratio {start / MOST_START_S:.3f} (goal < 1; {start:.2f} s to the first batch)")
    print(
        f"stream_start_memory ratio {size / MOST_START_MB:.3f} (goal < 1; {size:.0f} MB at most, beside the "
        f"{found['imports_mb']:.0f} MB of Python and its libraries)"
    )
    print(f"stream_resume ratio {slowest / MOST_RESUME_S:.3f} (goal < 1; to the first batch at {places})")


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure and print every line."""
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument(
        "--keep-memory", action="store_true", help="keep freed memory, as train.py does, here on every side"
    )
    parser.add_argument("--only", choices=("speed", "memory", "scale"))
    options = parser.parse_args()
    if options.keep_memory:
        keep_freed_memory()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.only in (None, "speed"):
            compare_speed(folder, options)
        if options.only in (None, "memory"):
            measure_memory(folder)
        if options.only in (None, "scale"):
            measure_scale(folder)


if __name__ == "__main__":
    main()
