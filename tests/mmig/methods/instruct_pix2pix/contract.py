"""InstructPix2Pix as the contract sees it."""

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.mmig.methods.contract import Case
from tests.tiny_fixtures import TinyBackbones
from tests.tiny_sdxl import build_sdxl


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


def reads_twice(backbones: TinyBackbones) -> dict[str, Any]:
    """In SDXL's form."""
    made = model(backbones)
    root = str(build_sdxl(Path(mkdtemp()) / "sdxl"))
    made["init_args"] |= {"backbone": root, "unet": root}
    return made


CASES = {"edits": Case(model), "reads": Case(reads), "sdxl": Case(reads_twice, repeats=True)}
