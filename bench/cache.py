"""What do cached features save? Training steps with them against the same steps without, and the FLOP bound beside.

Stage 1 of MMIG and InstructPix2Pix are built with random weights at the published shapes in small (a quarter of the
widths, 128 px) through the repository's own loaders; `mmig.cache` writes the features of photographs once. Then steps
of both sides alternate in this process on one thread: read a batch through the stream, losses, backward, clip, AdamW.
The bound is the ratio of the floating-point operations of the two steps (torch.utils.flop_counter), counted on the same
batch; printed with it is the bound at the published sizes (512 px, and 256 px for InstructPix2Pix). Compared are
medians of wall-clock time; on a machine with other work those of processor time, printed beside, say more.

    python bench/cache.py [--rounds 5] [--batch 8] [--device cpu]
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.stages.build import TINY, build_parts, build_stage
from bench.stages.count import Pieces, operations
from bench.stages.sizes import PUBLISHED, Sizes
from bench.stream import make_pairs
from datamodules.schema import Batch
from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from mmig.backbones.diffusion import load_tokenizer
from mmig.cache.__main__ import write_split
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.optim import OptimizerConfig, build_adamw
from mmig.parts import BackboneConfig, MMSMConfig
from mmig.rng import Draws
from mmig.stages.base import TrainingModule
from mmig.stages.stage1 import Stage1

GOAL = 0.9
SIDE, SAMPLES = 128, 32
SMALL = replace(
    PUBLISHED,
    llm=PUBLISHED.llm
    | {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 16, "num_attention_heads": 8},
    text=PUBLISHED.text
    | {"hidden_size": 192, "intermediate_size": 768, "projection_dim": 192, "num_attention_heads": 6},
    unet=PUBLISHED.unet
    | {"block_out_channels": (80, 160, 320, 320), "norm_num_groups": 16, "cross_attention_dim": 192},
    vae=PUBLISHED.vae | {"block_out_channels": (32, 64, 128, 128)},
    mmsm=(192, 8),
    resolution=SIDE,
)
"""The published shapes with a quarter of the widths of what sees images; an eighth of the LLM's, half of its layers."""


class Side:
    """One way to train a method: its batches, endlessly, and its step."""

    def __init__(self, method: TrainingModule, data: ShardData) -> None:
        self.method = method
        self.optimizer = build_adamw(method.named_parameters(), method.optimizer_config)
        self.trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
        stream = data.train_dataloader()
        self.batches: Iterator[Batch] = chain.from_iterable(iter(stream) for _ in repeat(None))

    def step(self) -> None:
        """Read a batch and take one step on it."""
        method = self.method
        batch = method.transfer_batch_to_device(next(self.batches), method.device, 0)
        draws = Draws(0, batch["position"])
        values, counts = method.losses(batch, draws), method.loss_counts(batch, draws)
        means = [(values[name] * counts[name]).sum() / counts[name].sum().clamp(min=1) for name in values]
        torch.stack(means).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if method.device.type == "cuda":
            torch.cuda.synchronize()


def save_backbones(folder: Path, sizes: Sizes) -> None:
    """Write random weights of these sizes in the published layouts."""
    parts = build_parts(Stage1, sizes, torch.device("cpu"), torch.float32, False)
    for name in ("vae", "unet", "text_encoder", "scheduler"):
        getattr(parts, name).save_pretrained(folder / "diffusion" / name)
    load_tokenizer(TINY / "stable-diffusion").save_pretrained(folder / "diffusion" / "tokenizer")
    parts.llm.save_pretrained(folder / "llm")
    parts.llm_tokenizer.save_pretrained(folder / "llm")


def methods(folder: Path) -> dict[str, Callable[[], TrainingModule]]:
    """How each measured method is built."""
    diffusion, llm = str(folder / "diffusion"), str(folder / "llm")
    dim, heads = SMALL.mmsm
    return {
        "stage1": lambda: Stage1(BackboneConfig(diffusion, llm), OptimizerConfig(), MMSMConfig(dim, heads)),
        "instruct_pix2pix": lambda: InstructPix2PixModule(OptimizerConfig(), {"noise": 1.0}, diffusion, diffusion),
    }


def open_data(folder: Path, batch_size: int, method: TrainingModule, features: Path | None) -> ShardData:
    """The photographs, as a training of this method reads them."""
    data = ShardData(
        train=str(folder / "pairs"),
        global_batch_size=batch_size,
        resolution=SIDE,
        features=None if features is None else str(features),
    )
    data.trainer = _Reader(method)  # type: ignore[assignment]
    return data


class _Reader:
    """What `ShardData` asks of a trainer."""

    world_size, global_rank, max_steps = 1, 0, -1

    def __init__(self, method: TrainingModule) -> None:
        self.lightning_module = method
        self.strategy = type("Strategy", (), {"root_device": method.device})


def measure(name: str, method: TrainingModule, folder: Path, rounds: int, batch_size: int) -> str:
    """Write the features of a method, alternate its steps with and without them, and return the line to print."""
    features = folder / name
    writer = open_data(folder, batch_size, method, None)
    write_split(method, writer, "train", features, batch_size, None, nullcontext, lambda count: None)
    sides = {
        "live": Side(method, open_data(folder, batch_size, method, None)),
        "cached": Side(method, open_data(folder, batch_size, method, features)),
    }
    flops = {}
    for side, trained in sides.items():
        trained.step()  # warms up
        with FlopCounterMode(display=False) as counter:
            trained.step()
        flops[side] = counter.get_total_flops()
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, trained in sides.items():
            start = time.perf_counter(), time.process_time()
            trained.step()
            times[side].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    (live, live_cpu), (cached, cached_cpu) = (
        [1e3 * median(values) for values in zip(*times[side], strict=True)] for side in ("live", "cached")
    )
    bound = flops["live"] / flops["cached"]
    return (
        f"cache_{name} ratio {live / cached / bound:.3f} (goal >= {GOAL}: speed-up {live / cached:.2f} of FLOP bound "
        f"{bound:.2f}; {live:.0f} and {cached:.0f} ms a step of {batch_size}; by processor time "
        f"{live_cpu / cached_cpu / bound:.3f}, {live_cpu:.0f} and {cached_cpu:.0f} ms; medians of {rounds}, load "
        f"{os.getloadavg()[0]:.1f})"
    )


def published_bound(resolution: int, images: int, with_llm: bool, trained: bool) -> float:
    """FLOP bound at the published sizes, counted on the meta device: (frozen + denoiser) / denoiser, for one sample.

    Args:
        resolution: pixels. images: that the autoencoder encodes. with_llm: whether the LLM reads a text of 64 tokens.
        trained: whether the denoiser trains, or lets gradients pass only.
    """
    sizes = replace(PUBLISHED, resolution=resolution)
    stage = build_stage(Stage1, sizes, "meta")
    stage.mmig.unet.requires_grad_(trained)
    pieces = Pieces(stage.mmig, sizes)
    denoiser = operations(lambda: pieces.unet().float().sum().backward())
    with torch.no_grad():
        frozen = images * operations(pieces.encoded) + operations(pieces.text)
        frozen += operations(lambda: pieces.llm(64)) if with_llm else 0
    return (denoiser + frozen) / denoiser


def main() -> None:
    """Measure and print a line a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often the two sides alternate")
    parser.add_argument("--batch", type=int, default=8, help="samples a step")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_backbones(folder, SMALL)
        write_shards(make_pairs(SAMPLES), folder / "pairs", 16)
        for method, build in methods(folder).items():
            print(measure(method, build().to(options.device), folder, options.rounds, options.batch))
    stage1 = published_bound(512, 1, with_llm=True, trained=False)
    editor = published_bound(256, 2, with_llm=False, trained=True)
    print(f"FLOP bound at the published sizes: stage 1 {stage1:.2f}, InstructPix2Pix {editor:.2f}")


if __name__ == "__main__":
    main()
