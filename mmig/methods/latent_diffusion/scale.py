"""The latent scale of an autoencoder: one number that brings its latents to unit variance.

    python -m mmig.methods.latent_diffusion.scale --vae FOLDER --data FILE [--split val]
    torchrun --nproc-per-node 8 -m mmig.methods.latent_diffusion.scale --vae FOLDER --data FILE

measures it for an autoencoder in diffusers' layout, on all ranks together, and writes it into its config.json. A run of
ours is measured when it is exported (`python -m mmig.run.export`).
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from mmig.backbones.diffusion import load_vae
from mmig.backbones.files import read_json
from mmig.backbones.hub import locate
from mmig.backbones.parts import VAE
from mmig.base.batches import move_batch, process_device
from mmig.base.commands import OptionParser, one_line_errors
from mmig.base.files import write_json
from mmig.diffusion.latents import encode_unscaled
from mmig.evaluation.data import build_datamodule, prepare, split_batches

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

MIN_IMAGES = 1000
"""A scale from fewer images is not stored: the first batch alone, as LDM took it, can be far off."""
MAX_IMAGES = 2000
"""More are not read, over all ranks."""
DIGITS = 5
"""Of the number that is stored."""


@torch.no_grad()
def measure_scale(vae: "AutoencoderKL", batches: Iterable[Mapping[str, Any]]) -> tuple[float, int]:
    """1 / standard deviation of the latents (posterior modes, over all values), and the number of images measured.

    Under torch.distributed every rank calls it with its part of the data, and all get the same.

    Args:
        vae: the autoencoder; its own scale is not applied.
        batches: source and target images are both taken; what repeats a sample is passed over.

    Raises:
        ValueError: fewer than `MIN_IMAGES` images.
    """
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    sums = torch.zeros(4, dtype=torch.float64)  # of images, values, values and their squares
    for batch in batches:
        for name in ("source", "target"):
            if f"has_{name}" in batch:
                sums += _sums(vae, batch, name)
        if sums[0] * ranks >= MAX_IMAGES:
            break
    if ranks > 1:
        dist.all_reduce(sums)
    images, count, total, squares = sums.tolist()
    if images < MIN_IMAGES:
        raise ValueError(
            f"the latent scale needs at least {MIN_IMAGES} images, the data gave {images:.0f}; name data with a larger "
            "validation split with --data FILE"
        )
    variance = squares / count - (total / count) ** 2
    return variance**-0.5, int(images)


def _sums(vae: "AutoencoderKL", batch: Mapping[str, Any], name: str) -> torch.Tensor:
    """(images, values, sum of the values, sum of their squares) of the latents of one kind of image, float64 [4]."""
    there = batch[f"has_{name}"]
    if "repeated" in batch:
        there = there & ~batch["repeated"]
    images = batch[name][there]
    if not len(images):
        return torch.zeros(4, dtype=torch.float64)
    latents = encode_unscaled(vae, images).double()
    found = (len(images), latents.numel(), latents.sum().item(), latents.square().sum().item())
    return torch.tensor(found, dtype=torch.float64)


def validation_batches(config: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Batches of the validation split of the data that a run's configuration names; what has to be written is written.

    Raises:
        ValueError: it names none, or they cannot be used.
    """
    section = config.get("data")
    if not section:
        raise ValueError("the run's configuration names no data to measure the latent scale on; give --data FILE")
    data = build_datamodule(section, Path("config.yaml"))
    prepare(data, "val")
    return data.val_dataloader()


def store_scale(vae: Path, data: Path, split: str, device: torch.device) -> tuple[float, int]:
    """Measure the scale of a folder's autoencoder and write it there; under torch.distributed rank 0 writes.

    Args:
        vae: folder of an autoencoder or a pipeline. data: YAML with a `data` section. split: of it.
        device: where it is measured.

    Raises:
        BackboneError: no autoencoder there. SettingsError: no such data.
        ValueError: too few images, or sides that the autoencoder cannot halve so often.
    """
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    file, model = locate(vae, VAE) / "config.json", load_vae(vae).to(device)
    batches = split_batches(data, split, rank=rank, world_size=ranks, limit=MAX_IMAGES)
    scale, images = measure_scale(model, (move_batch(batch, device) for batch in batches))
    if rank == 0:
        write_json(file, read_json(file) | {"scaling_factor": round(scale, DIGITS)})
    return scale, images


def main(arguments: list[str] | None = None) -> None:
    """Measure, write, say it."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, required=True, help="folder of an autoencoder or a pipeline; changed")
    parser.add_argument("--data", type=Path, required=True, help="YAML with a `data` section")
    parser.add_argument("--split", default="val", help="of the data (default: val)")
    options = parser.parse_args(arguments)
    if "WORLD_SIZE" in os.environ:  # of torchrun
        dist.init_process_group("gloo")  # only scalars travel
    with one_line_errors():
        scale, images = store_scale(options.vae, options.data, options.split, process_device("auto"))
        sys.stdout.write(f"{options.vae}: scaling_factor {scale:.{DIGITS}f}, of {images:,} images\n")


if __name__ == "__main__":
    main()
