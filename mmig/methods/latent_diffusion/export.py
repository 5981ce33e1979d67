"""Write the autoencoder or the UNet of a run as a published diffusers folder, in half precision.

`python -m mmig.methods.latent_diffusion.export RUN --out DIR [--data configs/data/tinyworld.yaml]`

A new autoencoder's latent scale is measured on the data's validation split and stored as `scaling_factor`. A run that
trained the decoder alone has the latents of the autoencoder in DIR: `--keep-scale` takes over its number. A fine-tuned
decoder (`FineTuneDecoder`) has that of the autoencoder that it comes from.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.schema import Batch

if TYPE_CHECKING:
    from mmig.methods.latent_diffusion.autoencoder import AutoencoderModule, FineTuneDecoder, ReconstructionModule
    from mmig.methods.latent_diffusion.text_to_image import TextToImageModule


def export_autoencoder(module: "AutoencoderModule", batches: Iterable[Batch], out: Path) -> tuple[float, int]:
    """Write `out`/vae; returns its scaling_factor and the number of images that it was measured on."""
    from mmig.methods.latent_diffusion.scale import measure_scale

    scale, images = measure_scale(module.vae, batches)
    return _write_autoencoder(module, round(scale, 5), out), images


def replace_decoder(module: "AutoencoderModule", out: Path) -> float:
    """Write `out`/vae in place of the autoencoder there, whose latents it has; returns the scaling_factor of both.

    Raises:
        BackboneError: no autoencoder in `out`.
        ValueError: the run's encoder is another one.
    """
    import torch

    from mmig.backbones.diffusion import load_vae

    before = load_vae(out)
    pairs = zip(before.encoder.parameters(), module.vae.encoder.parameters(), strict=False)
    if not all(a.shape == b.shape and torch.allclose(a, b, atol=1e-2, rtol=1e-2) for a, b in pairs):
        raise ValueError(f"--keep-scale: the autoencoder in {out} has another encoder; measure with --data")
    return _write_autoencoder(module, before.config.scaling_factor, out)


def export_decoder(module: "FineTuneDecoder", out: Path) -> float:
    """Write `out`/vae with a fine-tuned decoder; returns its scaling_factor, which is unchanged."""
    return _write_autoencoder(module, module.vae.config.scaling_factor, out)


def _write_autoencoder(module: "ReconstructionModule", scale: float, out: Path) -> float:
    from mmig.diffusion.saving import save_half

    module.vae.register_to_config(scaling_factor=scale)
    save_half(module.vae, out / "vae")
    return scale


def export_unet(module: "TextToImageModule", out: Path) -> Path:
    """Write `out`/unet, `out`/scheduler and `out`/model_index.json; the other parts must lie in `out` already."""
    from mmig.diffusion.saving import save_half, save_pipeline_index, save_scheduler

    save_half(module.unet, out / "unet")
    save_scheduler(module.scheduler, out / "scheduler")
    return save_pipeline_index(out, "StableDiffusionPipeline")


def main(args: Sequence[str] | None = None) -> None:
    """Export the averaged weights of a run's newest checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory or checkpoint file")
    parser.add_argument("--out", type=Path, required=True, help="root of the Stable Diffusion folder")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--data", type=Path, help="configuration of the data to measure the latent scale on")
    scale.add_argument("--keep-scale", action="store_true", help="of the autoencoder in --out: only the decoder is new")
    arguments = parser.parse_args(args)
    from mmig.checkpoints.checkpoint import load_module
    from mmig.evaluation.data import split_batches
    from mmig.methods.latent_diffusion.autoencoder import AutoencoderModule, FineTuneDecoder
    from mmig.methods.latent_diffusion.text_to_image import TextToImageModule

    try:
        module = load_module(arguments.run)
        if isinstance(module, FineTuneDecoder):
            message = f"{arguments.out / 'vae'}: scaling_factor {export_decoder(module, arguments.out)} kept"
        elif isinstance(module, AutoencoderModule) and arguments.keep_scale:
            message = f"{arguments.out / 'vae'}: scaling_factor {replace_decoder(module, arguments.out)} kept"
        elif isinstance(module, AutoencoderModule):
            if arguments.data is None:
                raise ValueError(
                    "--data: expected a configuration, the latent scale of an autoencoder is measured on it"
                )
            scale, images = export_autoencoder(module, split_batches(arguments.data, "val"), arguments.out)
            message = f"{arguments.out / 'vae'}: scaling_factor {scale} measured on {images} images"
        elif isinstance(module, TextToImageModule):
            message = str(export_unet(module, arguments.out))
        else:
            raise ValueError(
                f"{arguments.run}: expected an autoencoder, its decoder or a UNet, found {type(module).__name__}"
            )
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    print(message)  # noqa: T201, the result of the command


if __name__ == "__main__":
    main()
