r"""Measure an exported autoencoder or text-to-image UNet on held-out samples.

`python -m experiments.tiny_backbones.score_images vae|unet --backbone assets/tiny/stable-diffusion \
    --data configs/data/plain.yaml --split test`

What is right is decided by functions of the data set that are handed in by their path.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from datamodules.schema import Batch
from experiments.tiny_backbones.scoring import ASSETS, Scores, held_out, load_function, options, print_scores
from mmig.base.commands import one_line_errors

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from mmig.methods.latent_diffusion.pipeline import TextToImagePipeline

JUDGE = "datamodules.tinyworld.oracle.judge"
SCENE_JUDGE = "datamodules.tinyworld.oracle.judge_scene"


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [-1,1], [B,3,H,W] -> [B]; infinite where they are equal."""
    error = ((images - references) / 2).square().flatten(1).mean(dim=1)
    return -10 * error.log10()


@torch.no_grad()
def score_autoencoder(vae: "AutoencoderKL", batches: Iterable[Batch], judge: Callable[..., Any]) -> Scores:
    """PSNR of source and target images, and the ceiling: how often a reconstructed true target is judged a success.

    A success is counted where the target itself is one.
    """
    ratios: list[Tensor] = []
    kept: list[bool] = []
    for batch in batches:
        for name in ("source", "target"):
            images = batch[name]  # type: ignore[literal-required]
            output = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
            ratios.append(psnr(output, images))
        for row, metadata in enumerate(batch["metadata"]):
            if judge(batch["target"][row], metadata).success:
                kept.append(bool(judge(output[row], metadata).success))
    values = torch.cat(ratios)
    return {
        "psnr": values.mean().item(),
        "psnr_lowest_tenth": values.quantile(0.1).item(),
        "images": float(len(values)),
        "ceiling": sum(kept) / len(kept),
        "targets": float(len(kept)),
    }


@torch.no_grad()
def score_text_to_image(
    pipeline: "TextToImagePipeline", batches: Iterable[Batch], judge: Callable[..., Any], seed: int = 0
) -> Scores:
    """How often the source scene, drawn from its caption, is right: all objects with shape, colour and place.

    Scenes without objects (photographs) are left out. `objects` is the share of objects that are right.
    """
    from mmig.training.rng import generator

    correct, right, objects, backgrounds = [], 0, 0, []
    for batch in batches:
        rows = [row for row, metadata in enumerate(batch["metadata"]) if metadata["source_scene"]["things"]]
        texts = [batch["source_caption"][row] for row in rows]
        generators = [generator(seed, "score", batch["key"][row]) for row in rows]
        images = pipeline.draw(texts, tuple(batch["source"].shape[-2:]), generators)
        for row, image in zip(rows, images, strict=True):
            verdict = judge(image, batch["metadata"][row]["source_scene"])
            correct.append(verdict.correct)
            backgrounds.append(verdict.background)
            right, objects = right + verdict.objects_right, objects + verdict.objects
    return {
        "correct": sum(correct) / len(correct),
        "objects": right / objects,
        "background": sum(backgrounds) / len(backgrounds),
        "scenes": float(len(correct)),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Score one exported part and print its figures."""
    parser = options(__doc__)
    parser.add_argument("part", choices=("vae", "unet"))
    parser.add_argument("--backbone", type=Path, default=ASSETS / "stable-diffusion")
    parser.add_argument("--judge", help=f"default {JUDGE} (vae), {SCENE_JUDGE} (unet)")
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(args)
    with one_line_errors():
        scores = _score(arguments, held_out(arguments))
    print_scores(scores)


def _score(arguments: argparse.Namespace, batches: Iterable[Batch]) -> Scores:
    from mmig.backbones.diffusion import load_vae
    from mmig.methods.latent_diffusion.pipeline import DrawSampling, open_editor

    root = arguments.backbone
    if arguments.part == "vae":
        return score_autoencoder(load_vae(root), batches, load_function(arguments.judge or JUDGE))
    pipeline = open_editor(str(root), DrawSampling(arguments.steps, arguments.guidance_scale))
    return score_text_to_image(pipeline, batches, load_function(arguments.judge or SCENE_JUDGE), arguments.seed)


if __name__ == "__main__":
    main()
