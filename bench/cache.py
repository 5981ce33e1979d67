"""What do cached features save? Training steps with them against the same steps without, and the FLOP bound beside.

Stage 1 of MMIG and InstructPix2Pix as the demo trains them (assets/tiny, 64 px, batches of 16). `mmig.run.cache` writes
the features once; then steps of both sides alternate in this process on one thread: read a batch through the stream,
losses, backward, clip, AdamW, average of the weights. The bound is the ratio of the floating-point operations of the
two steps (torch.utils.flop_counter). Medians of wall-clock time are compared; on a machine with other work those of
processor time, printed beside, say more. Printed too is the bound at the published sizes (512 px, and 256 px for
InstructPix2Pix).

    python bench/cache.py [--rounds 7] [--shapes tiny] [--device cpu]

`--shapes published` takes the published shapes in small instead, with random weights: a quarter of the widths, 128 px.
There a CPU runs the denoiser's narrow layers at two thirds of the speed of the autoencoder's and the LLM's, and less of
the bound is reached; the rates are printed.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from PIL import Image

from bench.stages.build import TINY, build_parts, build_stage
from bench.stages.count import Pieces, operations
from bench.stages.sizes import PUBLISHED, QUARTER
from bench.tools.clock import Pairs, in_turn
from bench.tools.loops import BareLoop
from bench.tools.process import quiet_and_single
from datamodules.schema import Batch, Sample
from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from datamodules.tinyworld.sample import make_sample
from mmig.backbones.diffusion import load_tokenizer
from mmig.base.commands import OptionParser
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.mmig.parts import BackboneConfig, MMSMConfig
from mmig.methods.mmig.stages.paper import Stage1
from mmig.run.cache import write_split
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig

GOAL = 0.9
SAMPLES, BATCH_SIZE = 64, 16
Methods = dict[str, Callable[[], TrainingModule]]


def tiny(folder: Path) -> tuple[Methods, int]:
    """The demo's methods and their resolution; its scenes go to folder/pairs."""
    write_shards((make_sample(0, "train", number) for number in range(SAMPLES)), folder / "pairs", 32)
    diffusion, unet = str(TINY / "stable-diffusion"), str(TINY / "instruct-pix2pix")
    backbones = BackboneConfig(diffusion, str(TINY / "llama"), unet=unet)
    mmsm = MMSMConfig(96, 4, ["up_blocks.0", "up_blocks.1"])
    return {
        "stage1": lambda: Stage1(backbones, OptimizerConfig(), mmsm, source_conditioning="concat"),
        "instruct_pix2pix": lambda: InstructPix2PixModule(OptimizerConfig(), {"sdm": 1.0}, diffusion, unet),
    }, 64


def noise_pairs(count: int, side: int) -> Iterator[Sample]:
    """Pairs of noise with texts as long as an instruction and a response are."""
    for number in range(count):
        source, target = (Image.effect_noise((side, side), 64).convert("RGB") for _ in range(2))
        instruction, response = "turn the picture upside down", f"picture {number}, which is seen upside down now"
        yield {
            "key": f"{number:06d}",
            "source": source,
            "target": target,
            "instruction": instruction,
            "response": response,
        }


def published(folder: Path) -> tuple[Methods, int]:
    """The published configurations in small, saved with random weights to `folder`; noise goes to folder/pairs."""
    write_shards(noise_pairs(SAMPLES, QUARTER.resolution), folder / "pairs", 32)
    parts = build_parts(Stage1, QUARTER, torch.device("cpu"), torch.float32, False)
    for name in ("vae", "unet", "text_encoder", "scheduler"):
        getattr(parts, name).save_pretrained(folder / "diffusion" / name)
    load_tokenizer(TINY / "stable-diffusion").save_pretrained(folder / "diffusion" / "tokenizer")
    parts.llm.save_pretrained(folder / "llm")
    parts.llm_tokenizer.save_pretrained(folder / "llm")
    diffusion = str(folder / "diffusion")
    backbones, mmsm = BackboneConfig(diffusion, str(folder / "llm")), MMSMConfig(*QUARTER.mmsm)
    return {
        "stage1": lambda: Stage1(backbones, OptimizerConfig(), mmsm),
        "instruct_pix2pix": lambda: InstructPix2PixModule(OptimizerConfig(), {"sdm": 1.0}, diffusion, diffusion),
    }, QUARTER.resolution


class _Reader:
    """What `ShardData` asks of a trainer."""

    world_size, global_rank, max_steps = 1, 0, -1

    def __init__(self, method: TrainingModule) -> None:
        self.lightning_module = method
        self.strategy = type("Strategy", (), {"root_device": method.device})


def measure(name: str, method: TrainingModule, folder: Path, resolution: int, rounds: int) -> str:
    """Write the features of a method, alternate its steps with and without them, and return the line to print."""

    def data(features: Path | None) -> ShardData:
        where = None if features is None else str(features)
        settings = {"global_batch_size": BATCH_SIZE, "resolution": resolution, "features": where}
        opened = ShardData(train=str(folder / "pairs"), **settings)
        opened.trainer = _Reader(method)  # type: ignore[assignment]
        return opened

    write_split(method, data(None), "train", folder / name, BATCH_SIZE, None, nullcontext, lambda count: None)
    live, cached = (step_on(method, data(features)) for features in (None, folder / name))
    cached()  # warms up, as counting does
    flops = operations(live), operations(cached)
    return line(name, flops, in_turn(live, cached, rounds, method.device))


def step_on(method: TrainingModule, data: ShardData) -> Callable[[], None]:
    """A step that reads a batch and trains on it."""
    loop, stream = BareLoop(method, total_steps=1000), data.train_dataloader()
    batches: Iterator[Batch] = chain.from_iterable(iter(stream) for _ in repeat(None))
    return lambda: loop.step(next(batches))


def line(name: str, flops: tuple[int, int], times: Pairs) -> str:
    """What is printed of the operations of a live and a cached step, and of their times."""
    (live, cached), (live_cpu, cached_cpu) = times.seconds(), times.seconds(1)
    bound, saved = flops[0] / flops[1], flops[0] - flops[1]
    rates = [work / seconds / 1e9 for work, seconds in ((saved, live - cached), (flops[1], cached))]
    return (
        f"cache_{name} ratio {live / cached / bound:.3f} (goal >= {GOAL}: speed-up {live / cached:.2f} of FLOP bound "
        f"{bound:.2f}; {1e3 * live:.0f} and {1e3 * cached:.0f} ms a step of {BATCH_SIZE}; by processor time "
        f"{live_cpu / cached_cpu / bound:.3f}, {1e3 * live_cpu:.0f} and {1e3 * cached_cpu:.0f} ms; saved operations at "
        f"{rates[0]:.0f} GFLOP/s, the others at {rates[1]:.0f}; medians of {len(times.own)}, load "
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
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often the two sides alternate")
    parser.add_argument("--shapes", choices=("tiny", "published"), default="tiny")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    quiet_and_single()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        methods, resolution = {"tiny": tiny, "published": published}[options.shapes](folder)
        for method, build in methods.items():
            built = build().to(options.device)
            print(measure(method, built, folder, resolution, options.rounds), flush=True)
    stage1 = published_bound(512, 1, with_llm=True, trained=False)
    editor = published_bound(256, 2, with_llm=False, trained=True)
    print(f"FLOP bound at the published sizes: stage 1 {stage1:.2f}, InstructPix2Pix {editor:.2f}")


if __name__ == "__main__":
    main()
