"""Latent diffusion as the contract sees it: both stages, the first with and without an adversary; a decoder alone."""

from typing import Any

from tests.mmig.methods.contract import Case
from tests.mmig.methods.latent_diffusion.support import SIZES, WEIGHTS, features_folder
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
        **SIZES,
    }
    return {"class_path": f"{PACKAGE}.autoencoder.AutoencoderModule", "init_args": arguments}


def adversarial(backbones: TinyBackbones) -> dict[str, Any]:
    """The same with LPIPS, against a discriminator that begins with the second step and looks at each image alone."""
    section = autoencoder(backbones)
    arguments = {
        "optimizer": {"lr": 1.0e-3, "groups": {"discriminator": {"lr": 5.0e-4, "betas": [0.5, 0.9]}}},
        "loss_weights": WEIGHTS,
        "perceptual": str(features_folder(backbones.llama.parent)),
        "discriminator": {"width": 8, "layers": 2, "norm": "instance"},
        "discriminator_start": 1,
    }
    return {
        "class_path": f"{PACKAGE}.adversarial.AdversarialAutoencoder",
        "init_args": {**section["init_args"], **arguments},
    }


def decoder(backbones: TinyBackbones) -> dict[str, Any]:
    """A pretrained autoencoder's decoder."""
    arguments = {"optimizer": {"lr": 1.0e-3}, "loss_weights": {"reconstruction": 1.0}}
    return {
        "class_path": f"{PACKAGE}.autoencoder.FineTuneDecoder",
        "init_args": {**arguments, "vae": str(backbones.stable_diffusion)},
    }


CASES = {
    "text_to_image": Case(text_to_image, inputs=(), instruction="a red circle"),
    "adversarial": Case(adversarial, sampling=(), export_refused="needs at least 1000 images", metrics=("l1_input",)),
    "autoencoder": Case(
        autoencoder, sampling=(), export_refused="needs at least 1000 images", metrics=("l1_input",), repeats=True
    ),
    "decoder": Case(decoder, sampling=(), metrics=("l1_input",), repeats=True),
}
