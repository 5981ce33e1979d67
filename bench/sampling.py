"""Images/s of MMIG's pipeline in plain mode against diffusers' InstructPix2Pix pipeline on the same weights.

Plain mode is `MMIGPipeline` without an LLM: the response is given and no mutual support module works. Both pipelines
hold the same modules, get the same pictures, texts and noise, take as many steps with both scales of guidance, three
branches a step, and put out PIL images, which must agree to one level of 255. Calls alternate in this process; the
figure is the median of the pairs' ratios, images/s of ours over theirs; on a machine with other work that of processor
times, printed beside, says more.

    python bench/sampling.py [--rounds 9] [--sizes tiny mid] [--batch 2]

"tiny" is assets/tiny at 64 px; "mid" a quarter of the published widths at 128 px; "published" Stable Diffusion 1.5 at
512 px, for a GPU, all but tiny with random weights:

    python bench/sampling.py --device cuda --dtype bfloat16 --sizes published --steps 20 [--compile]

`--compile` compiles our UNet and the decoder and leaves theirs as published; there the goal is 1.2.
"""

import argparse
import copy
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from PIL import Image, ImageChops
from torch import nn

from bench.stages.build import TINY, build_denoiser
from bench.stages.sizes import PUBLISHED, QUARTER, Sizes
from bench.tools.clock import Pairs, in_turn
from bench.tools.process import quiet_and_single
from mmig.backbones import diffusion
from mmig.base.commands import OptionParser
from mmig.diffusion.latents import latent_shape
from mmig.diffusion.sampling import draw_noise
from mmig.methods.mmig.connectors import Connectors
from mmig.methods.mmig.pipeline import MMIGPipeline

EQUAL, COMPILED = 0.98, 1.2
TEXT = "a red circle and a blue square on a white background"
Parts = dict[str, Any]


def tiny_parts() -> tuple[Parts, int]:
    """The trained parts of assets/tiny, and their resolution."""
    root = TINY / "stable-diffusion"
    return {
        "unet": diffusion.load_unet(TINY / "instruct-pix2pix"),
        "vae": diffusion.load_vae(root),
        "text_encoder": diffusion.load_text_encoder(root),
        "tokenizer": diffusion.load_tokenizer(root),
        "scheduler": diffusion.load_scheduler(root),
    }, 64


def random_parts(sizes: Sizes, device: str, dtype: torch.dtype) -> tuple[Parts, int]:
    """Parts with random weights, their UNet with eight input channels, and their resolution."""
    from diffusers import DDIMScheduler

    sizes = replace(sizes, unet=sizes.unet | {"in_channels": 8})
    parts = build_denoiser(sizes, torch.device(device), dtype)
    # draws no noise of its own, so that the images of both can be compared
    return parts | {"scheduler": DDIMScheduler.from_config(parts["scheduler"].config)}, sizes.resolution


def ours(parts: Parts) -> MMIGPipeline:
    """MMIG's pipeline in plain mode: no LLM, hence no mutual support."""
    width = parts["unet"].config.block_out_channels[-1]
    connectors = Connectors(text_dim=48, feature_dims={"mid_block": width}, dim=16, heads=2)
    return MMIGPipeline(**parts, connectors=connectors, source_conditioning="concat")


def theirs(parts: Parts) -> Any:
    """The public pipeline around the same modules."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    return StableDiffusionInstructPix2PixPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


class Calls:
    """One call of each pipeline, of equal work.

    Args:
        parts: what both consist of.
        resolution: of the pictures. batch: pictures a call. steps: of the reverse process.
        compiled: compile a copy of the UNet and decoder for our side, by this backend of torch.compile.
    """

    def __init__(self, parts: Parts, resolution: int, batch: int, steps: int, compiled: str | None = None) -> None:
        self.resolution, self.batch = resolution, batch
        self.theirs = theirs(parts)
        self.ours = ours(parts if compiled is None else parts | compiled_copies(parts, compiled))
        for pipeline in (self.ours, self.theirs):
            pipeline.set_progress_bar_config(disable=True)
        self.pictures = [Image.effect_noise((resolution, resolution), 64).convert("RGB") for _ in range(batch)]
        self.settings = {"num_inference_steps": steps, "guidance_scale": 7.5, "image_guidance_scale": 1.5}
        self.shape = latent_shape(parts["vae"], resolution, resolution)

    def call_ours(self) -> list[Image.Image]:
        """Edit the pictures with MMIG's pipeline."""
        texts = [TEXT] * self.batch
        generators = self._generators()
        return self.ours(
            self.pictures, texts, texts, generator=generators, resolution=self.resolution, **self.settings
        ).images

    def call_theirs(self) -> list[Image.Image]:
        """Edit the pictures with diffusers' pipeline, from the same noise."""
        unet = self.theirs.unet
        noise = draw_noise(self.shape, self._generators(), unet.device).to(unet.dtype)
        return self.theirs([TEXT] * self.batch, image=self.pictures, latents=noise, **self.settings).images

    def largest_difference(self) -> int:
        """Between the images of both, in levels of 255."""
        pairs = zip(self.call_ours(), self.call_theirs(), strict=True)
        return max(high for a, b in pairs for _, high in ImageChops.difference(a, b).getextrema())

    def _generators(self) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(number) for number in range(self.batch)]


def compiled_copies(parts: Parts, backend: str) -> dict[str, nn.Module]:
    """The UNet and the autoencoder's decoder once more, compiled in place."""
    copies = {name: copy.deepcopy(parts[name]) for name in ("unet", "vae")}
    copies["unet"].compile(backend=backend, fullgraph=True)
    copies["vae"].decoder.compile(backend=backend, fullgraph=True)
    return copies


def line(name: str, calls: Calls, pairs: Pairs, difference: int, goal: float) -> str:
    """What is printed of a measurement."""
    base, own = pairs.seconds()
    steps = calls.settings["num_inference_steps"]
    return (
        f"sampling/{name} ratio {pairs.ratio():.3f} (goal >= {goal}; ours {calls.batch / own:.3g} images/s, diffusers "
        f"{calls.batch / base:.3g}; {calls.resolution} px, batch {calls.batch}, {steps} steps; by"
        f" processor time {pairs.ratio(1):.3f}; images differ by at most {difference}/255; {len(pairs.own)} "
        f"pairs, load {os.getloadavg()[0]:.1f})"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a line each."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=("tiny", "mid", "published"), default=["tiny", "mid"])
    parser.add_argument("--rounds", type=int, default=9, help="how often both are called")
    parser.add_argument("--batch", type=int, default=2, help="pictures a call")
    parser.add_argument("--steps", type=int, default=5, help="steps of the reverse process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of random weights")
    parser.add_argument("--compile", action="store_true", help="compile our side")
    options = parser.parse_args(arguments)
    quiet_and_single()
    torch.manual_seed(0)
    build: dict[str, Callable[[], tuple[Parts, int]]] = {
        "tiny": tiny_parts,
        "mid": lambda: random_parts(QUARTER, options.device, getattr(torch, options.dtype)),
        "published": lambda: random_parts(PUBLISHED, options.device, getattr(torch, options.dtype)),
    }
    for name in options.sizes:
        parts, resolution = build[name]()
        for part in ("unet", "vae", "text_encoder"):
            parts[part].to(options.device)
        calls = Calls(parts, resolution, options.batch, options.steps, "inductor" if options.compile else None)
        difference = calls.largest_difference()
        pairs = in_turn(calls.call_theirs, calls.call_ours, options.rounds, options.device)
        label = f"{name}/compiled" if options.compile else name
        print(line(label, calls, pairs, difference, COMPILED if options.compile else EQUAL), flush=True)


if __name__ == "__main__":
    main()
