"""Our InstructPix2Pix against diffusers' public training script: steps/s without cached features, on the CPU.

Both sides train the same UNet from the same folders on the same pairs (encoded images, decoded in every step), with the
same batch, precision, drops, learning rate, clipping and decay of the average; neither computes activations again.
Ours is what train.py runs, with all its callbacks and logs. Theirs is `bench/tools/recipe.py`, written from the
documentation of the script. Steps alternate one by one in this process on one thread; the figure is the median of the
pairs' ratios. On a machine with other work the ratio of processor times, printed beside, says more.

    python bench/diffusers_recipe.py [--steps 24] [--shapes tiny] [--batch 16] [--precision auto]

`--precision auto` is bfloat16 where its products are faster than float32's, as train.py's is. There attention makes
most of the difference: torch's own is slow in bfloat16 on CPUs, and train.py does without it.

`--shapes tiny` is assets/tiny at 64 px in batches of 16; `published` takes the published shapes in small with random
weights: a quarter of the widths, 128 px, batches of 4.

What cached features add to that is a line of `bench/cache.py` (`cache_instruct_pix2pix`, goal 0.9 of the FLOP bound).
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import yaml
from transformers.utils.logging import disable_progress_bar

from bench.stages.build import TINY, build_denoiser
from bench.stages.sizes import QUARTER
from bench.tools.clock import Pairs
from bench.tools.gpu_steps import eight_channels
from bench.tools.loops import Alternating
from bench.tools.process import quiet_and_single
from bench.tools.recipe import Pair, Recipe, RecipeSettings
from bench.tools.set_up import set_up
from datamodules.encode import encode
from datamodules.schema import Sample
from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from datamodules.tinyworld.sample import make_sample
from mmig.base.commands import OptionParser, positive
from mmig.run.precision import AUTO, multiplies_bfloat16

GOAL = 1.1
SAMPLES, WARM_UP = 64, 3
PRECISIONS = {"float32": ("no", "32-true"), "bfloat16": ("bf16", "bf16-mixed")}
"""What the two sides call them: theirs, ours."""
METHOD = "mmig.methods.instruct_pix2pix.module.InstructPix2PixModule"


@dataclass(frozen=True)
class Shapes:
    """What is trained.

    Attributes:
        unet: folder of a UNet of 8 channels. backbone: folder of all else. resolution: pixels. batch: samples a step.
    """

    unet: Path
    backbone: Path
    resolution: int
    batch: int


def tiny(folder: Path) -> Shapes:
    """The trained tiny editor."""
    return Shapes(TINY / "instruct-pix2pix" / "unet", TINY / "stable-diffusion", 64, 16)


def published(folder: Path) -> Shapes:
    """The published shapes in small, with random weights, written to a folder."""
    parts = build_denoiser(eight_channels(QUARTER), torch.device("cpu"), torch.float32)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return Shapes(folder / "unet", folder, QUARTER.resolution, 4)


SHAPES = {"tiny": tiny, "published": published}


def samples() -> list[Sample]:
    """Pairs of the small world with nothing beside what both sides read."""
    made = (make_sample(0, "train", number) for number in range(SAMPLES))
    return [
        {"key": one["key"], "source": one["source"], "target": one["target"], "instruction": one["instruction"]}
        for one in made
    ]


def encoded(sample: Sample) -> Pair:
    """A pair as our shards hold it, for the other side."""
    files = encode(sample)
    return files["source.png"], files["target.png"], sample["instruction"]


def configuration(shapes: Shapes, pairs: Path, precision: str, settings: RecipeSettings) -> dict[str, Any]:
    """A run of ours with the other side's settings, as train.py takes it."""
    return {
        "model": {
            "class_path": METHOD,
            "init_args": {
                "optimizer": {"lr": settings.lr, "weight_decay": settings.weight_decay, "clip_norm": 1.0},
                "loss_weights": {"sdm": 1.0},
                "backbone": str(shapes.backbone),
                "unet": str(shapes.unet),
                "drop": settings.drop,
            },
        },
        "data": {
            "class_path": "datamodules.shard_data.ShardData",
            "init_args": {
                "train": str(pairs),
                "global_batch_size": shapes.batch,
                "resolution": shapes.resolution,
                "num_workers": 0,
            },
        },
        "trainer": {"precision": precision, "log_every_n_steps": 10},
        "ema": {"decay": 0.9999},
        "name": "ours",
    }


def measure(shapes: Shapes, steps: int, precision: str, folder: Path) -> Pairs:
    """Alternate steps of both sides; data, configuration and logs go to a folder."""
    theirs, ours = PRECISIONS[precision]
    total, data = steps + WARM_UP, samples()
    settings = RecipeSettings(shapes.batch, shapes.resolution, total, mixed_precision=theirs)
    write_shards(data, folder / "pairs", 32)
    config = configuration(shapes, folder / "pairs", ours, settings)
    (folder / "ours.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):
        recipe = Recipe(shapes.unet, shapes.backbone, [encoded(one) for one in data], settings, folder / "recipe")
        module, trainer = set_up(folder / "ours.yaml", folder / "runs", total)
        stream = ShardData(**config["data"]["init_args"]).train_dataloader()
        loader = Alternating(stream, recipe, steps, WARM_UP)
        trainer.fit(module, loader)
    return loader.times()


def line(name: str, times: Pairs) -> str:
    """What is printed of a measurement."""
    return times.line(name, GOAL, "the recipe", "ours", digits=0)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a line."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24, help="measured steps a side")
    parser.add_argument("--shapes", choices=SHAPES, default="tiny")
    parser.add_argument("--batch", type=positive, help="samples a step (default: that of the shapes)")
    parser.add_argument("--precision", choices=(AUTO, *PRECISIONS), default=AUTO)
    options = parser.parse_args(arguments)
    quiet_and_single()
    disable_progress_bar()  # of loading
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shapes = SHAPES[options.shapes](folder / "shapes")
        shapes = replace(shapes, batch=options.batch or shapes.batch)
        precision = options.precision
        if precision == AUTO:
            precision = "bfloat16" if multiplies_bfloat16() else "float32"
        times = measure(shapes, options.steps, precision, folder)
    print(line("diffusers_recipe", times), f"({precision})", flush=True)


if __name__ == "__main__":
    main()
