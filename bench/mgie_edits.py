"""Seconds of an edit with MGIE, with the text that its language model writes and without, beside InstructPix2Pix.

Three editors at the sizes of their published configurations, with random weights, in turn: InstructPix2Pix; MGIE whose
expressive text is given, so that the language model reads once; and MGIE that writes it. Random weights never come to
[IMG0], so every text has --tokens tokens: 23 are the mean of what the paper's model learns to write. The ratio is
InstructPix2Pix's seconds over those of the writing MGIE. Published, on one A100 at 100 steps: 6.8 and 9.2 s for one
picture; MGIE takes 20.6 s for four and 36.9 s for eight (Fu et al. 2024, table 4).

    python bench/mgie_edits.py [--batches 1 4 8] [--steps 20] [--rounds 3]
    python bench/mgie_edits.py --device cuda --sizes published --steps 100 --dtype bfloat16
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from bench.stages.build import random_batch
from bench.stages.configured import build_configured, read_configs
from bench.stages.sizes import PUBLISHED, QUARTER, SMALL, Sizes
from bench.tools.clock import alternate, seconds
from bench.tools.process import quiet_and_single
from bench.tools.trained import quiet
from mmig.base.commands import OptionParser, positive
from mmig.editor import Editor, with_settings

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"small": SMALL, "quarter": QUARTER, "published": PUBLISHED}
CHARACTERS = 80
"""Of an instruction or a given text."""


def editor(config: str, sizes: Sizes, device: str, dtype: torch.dtype, **settings: Any) -> Editor:
    """The pipeline of a published configuration around random weights."""
    module = build_configured(read_configs([str(ROOT / config)], []), sizes, device).to(dtype).eval()
    return with_settings(module.make_pipeline(), settings)


def editors(sizes: Sizes, device: str, dtype: torch.dtype, steps: int, tokens: int) -> dict[str, Editor]:
    """The three that are compared, by name."""
    mgie = editor("configs/mgie/published.yaml", sizes, device, dtype, num_steps=steps, max_new_tokens=tokens)
    return {
        "instruct_pix2pix": editor("configs/instruct_pix2pix/published.yaml", sizes, device, dtype, num_steps=steps),
        "given": with_settings(mgie, {"response": "given"}),
        "written": mgie,
    }


def calls(found: dict[str, Editor], sizes: Sizes, size: int, device: str, dtype: torch.dtype) -> dict[str, Callable]:
    """An edit of so many pictures by each."""
    batch = random_batch(size, sizes, CHARACTERS)
    batch |= {"expressive": batch["response"], "has_expressive": batch["has_response"]}
    batch = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    batch |= {"source": batch["source"].to(dtype)}

    def call(edit: Editor) -> Callable[[], Any]:
        return lambda: edit(batch, [torch.Generator().manual_seed(row) for row in range(size)])

    return {name: call(edit) for name, edit in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a line a batch size."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=SIZES, default="small", help="of all parts")
    parser.add_argument("--batches", nargs="+", type=positive, default=[1, 4, 8], help="pictures at once")
    parser.add_argument("--steps", type=positive, default=20, help="of the sampler")
    parser.add_argument("--tokens", type=positive, default=23, help="of each written text")
    parser.add_argument("--rounds", type=positive, default=3, help="how often each is called")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args(arguments)
    quiet_and_single()
    torch.manual_seed(0)
    sizes, dtype = SIZES[options.sizes], getattr(torch, options.dtype)
    found = editors(sizes, options.device, dtype, options.steps, options.tokens)
    for size in options.batches:
        with quiet("mmig.methods.mgie.pipeline"):  # which says that no text came to its [IMG]
            times = alternate(calls(found, sizes, size, options.device, dtype), options.rounds, options.device)
        walls = {name: seconds(each) for name, each in times.items()}
        told = ", ".join(f"{name} {wall:.2f} s" for name, wall in walls.items())
        print(
            f"mgie_edits/batch_{size} ratio {walls['instruct_pix2pix'] / walls['written']:.3f} (no goal: {told}; "
            f"{options.sizes} sizes, {sizes.resolution} px, {options.steps} steps, {options.tokens} tokens written, "
            f"{options.rounds} rounds, load {os.getloadavg()[0]:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
