"""Write the UNet of a run as the published InstructPix2Pix folder: unet/ and scheduler/ in half precision.

`python -m mmig.methods.instruct_pix2pix.export RUN --out DIR [--text-to-image DIR]`

`--text-to-image` also writes the 4-channel UNet that its first input channels are (trained by `generation` > 0) into a
Stable Diffusion folder that holds the other parts already.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule


def export(module: "InstructPix2PixModule", out: Path) -> Path:
    """Write `out`/unet and `out`/scheduler; autoencoder and text encoder stay those of the module's backbone."""
    from mmig.diffusion.saving import save_half, save_scheduler

    save_half(module.unet, out / "unet")
    save_scheduler(module.scheduler, out / "scheduler")
    return out


def export_text_to_image(module: "InstructPix2PixModule", out: Path) -> Path:
    """Write `out`/unet, what the UNet computes where there is no source, with `out`/scheduler and model_index.json."""
    from mmig.diffusion.saving import save_half, save_pipeline_index, save_scheduler

    save_half(narrowed(module.unet, module.vae.config.latent_channels), out / "unet")
    save_scheduler(module.scheduler, out / "scheduler")
    return save_pipeline_index(out, "StableDiffusionPipeline")


def narrowed(unet: "UNet2DConditionModel", in_channels: int) -> "UNet2DConditionModel":
    """A copy with the first `in_channels` input channels: equal to `unet` where the others are zero."""
    narrow = type(unet).from_config({**unet.config, "in_channels": in_channels})
    weights = dict(unet.state_dict())
    weights["conv_in.weight"] = weights["conv_in.weight"][:, :in_channels]
    narrow.load_state_dict(weights)
    return narrow


def main(args: Sequence[str] | None = None) -> None:
    """Export the averaged weights of a run's newest checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory or checkpoint file")
    parser.add_argument("--out", type=Path, required=True, help="root of the InstructPix2Pix folder")
    parser.add_argument("--text-to-image", type=Path, help="root of a Stable Diffusion folder")
    arguments = parser.parse_args(args)
    from mmig.checkpoints.checkpoint import load_module
    from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule

    try:
        module = load_module(arguments.run)
        if not isinstance(module, InstructPix2PixModule):
            raise ValueError(f"{arguments.run}: expected an InstructPix2PixModule, found {type(module).__name__}")
        print(export(module, arguments.out))  # noqa: T201, the result of the command
        if arguments.text_to_image is not None:
            print(export_text_to_image(module, arguments.text_to_image))  # noqa: T201
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
