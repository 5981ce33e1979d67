"""Write the autoencoder or the UNet of a run as a published diffusers folder, in half precision.

`python -m mmig.methods.latent_diffusion.export RUN --out DIR [--data configs/data/tinyworld.yaml]`

An autoencoder's latent scale is measured on the data's validation split and stored as `scaling_factor`.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.schema import Batch

if TYPE_CHECKING:
    from mmig.methods.latent_diffusion.autoencoder import AutoencoderModule
    from mmig.methods.latent_diffusion.text_to_image import TextToImageModule


def export_autoencoder(module: "AutoencoderModule", batches: Iterable[Batch], out: Path) -> tuple[float, int]:
    """Write `out`/vae; returns its scaling_factor and the number of images that it was measured on."""
    from mmig.dem.saving import save_half
    from mmig.methods.latent_diffusion.scale import measure_scale

    scale, images = measure_scale(module.vae, batches)
    module.vae.register_to_config(scaling_factor=round(scale, 5))
    save_half(module.vae, out / "vae")
    return module.vae.config.scaling_factor, images


def export_unet(module: "TextToImageModule", out: Path) -> Path:
    """Write `out`/unet, `out`/scheduler and `out`/model_index.json; the other parts must lie in `out` already."""
    from mmig.dem.saving import save_half, save_pipeline_index, save_scheduler

    save_half(module.unet, out / "unet")
    save_scheduler(module.scheduler, out / "scheduler")
    return save_pipeline_index(out, "StableDiffusionPipeline")


def main(args: Sequence[str] | None = None) -> None:
    """Export the averaged weights of a run's newest checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory or checkpoint file")
    parser.add_argument("--out", type=Path, required=True, help="root of the Stable Diffusion folder")
    parser.add_argument("--data", type=Path, help="configuration of the data to measure the latent scale on")
    arguments = parser.parse_args(args)
    from mmig.checkpoint import load_module
    from mmig.evaluation.data import split_batches
    from mmig.methods.latent_diffusion.autoencoder import AutoencoderModule
    from mmig.methods.latent_diffusion.text_to_image import TextToImageModule

    try:
        module = load_module(arguments.run)
        if isinstance(module, AutoencoderModule):
            if arguments.data is None:
                raise ValueError(
                    "--data: expected a configuration, the latent scale of an autoencoder is measured on it"
                )
            scale, images = export_autoencoder(module, split_batches(arguments.data, "val"), arguments.out)
            message = f"{arguments.out / 'vae'}: scaling_factor {scale} measured on {images} images"
        elif isinstance(module, TextToImageModule):
            message = str(export_unet(module, arguments.out))
        else:
            raise ValueError(f"{arguments.run}: expected an autoencoder or a UNet, found {type(module).__name__}")
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    print(message)  # noqa: T201, the result of the command


if __name__ == "__main__":
    main()
