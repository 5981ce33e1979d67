"""Latent diffusion as the contract sees it: both stages, and the decoder alone."""

from typing import Any

from tests.mmig.methods.contract import Case
from tests.tiny_fixtures import TinyBackbones

PACKAGE = "mmig.methods.latent_diffusion"


def text_to_image(backbones: TinyBackbones) -> dict[str, Any]:
    """The second stage, from a UNet."""
    root = str(backbones.stable_diffusion)
    arguments = {"optimizer": {"lr": 1.0e-3}, "loss_weights": {"sdm": 1.0}, "backbone": root, "unet": root}
    return {"class_path": f"{PACKAGE}.text_to_image.TextToImageModule", "init_args": arguments}


def autoencoder(_backbones: TinyBackbones) -> dict[str, Any]:
    """The first stage, from nothing."""
    arguments = {
        "optimizer": {"lr": 1.0e-3},
        "loss_weights": {"reconstruction": 1.0, "kl": 1.0e-6},
        "block_out_channels": [8, 16, 16],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "sample_size": 64,
    }
    return {"class_path": f"{PACKAGE}.autoencoder.AutoencoderModule", "init_args": arguments}


def decoder(backbones: TinyBackbones) -> dict[str, Any]:
    """A pretrained autoencoder's decoder."""
    arguments = {"optimizer": {"lr": 1.0e-3}, "loss_weights": {"reconstruction": 1.0}}
    return {
        "class_path": f"{PACKAGE}.autoencoder.FineTuneDecoder",
        "init_args": {**arguments, "vae": str(backbones.stable_diffusion)},
    }


CASES = {
    "text_to_image": Case(text_to_image, inputs=(), instruction="a red circle"),
    "autoencoder": Case(autoencoder, edits=False, export_refused="needs at least 1000 images"),
    "decoder": Case(decoder, edits=False, repeats=True),
}
