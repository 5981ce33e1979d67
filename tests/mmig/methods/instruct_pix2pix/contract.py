"""InstructPix2Pix as the contract sees it."""

from typing import Any

from tests.mmig.methods.contract import Case
from tests.tiny_fixtures import TinyBackbones


def model(backbones: TinyBackbones) -> dict[str, Any]:
    """From a text-to-image UNet."""
    root = str(backbones.stable_diffusion)
    arguments = {
        "optimizer": {"lr": 1.0e-3},
        "loss_weights": {"sdm": 1.0},
        "backbone": root,
        "unet": root,
        "generation": 0.25,
        "sampling": {"num_steps": 2},
        "micro_batch_size": 2,
    }
    return {
        "class_path": "mmig.methods.instruct_pix2pix.module.InstructPix2PixModule",
        "init_args": arguments,
    }


def reads(backbones: TinyBackbones) -> dict[str, Any]:
    """The text encoder trains along."""
    made = model(backbones)
    made["init_args"]["train_text_encoder"] = True
    return made


CASES = {"edits": Case(model), "reads": Case(reads)}
