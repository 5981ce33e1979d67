"""UMM-Diffusion as the contract sees it: both phases, on the subjects' world."""

from typing import Any

from datamodules.schema import Sample
from tests.mmig.methods.contract import NUM_SAMPLES, Case
from tests.mmig.methods.umm_diffusion.support import build_clip_image, subject_sample
from tests.tiny_fixtures import IMAGE_SIZE, TinyBackbones


def samples() -> tuple[list[Sample], list[Sample]]:
    """Of those to train on one has no picture, one no target and one no caption."""
    train, val = ([subject_sample(index, split) for index in range(NUM_SAMPLES)] for split in ("train", "val"))
    train[3].pop("attachments")
    train[3]["instruction"], train[3]["target_caption"] = "add a circle", "a circle on a white background"
    train[5].pop("target")
    train[6].pop("target_caption")
    train[6]["attachments"] = train[6]["attachments"][:1]
    train[6]["attachments"][0].pop("word")
    train[6]["instruction"] = "add a <image:0> circle"
    return train, val


_OPTIMIZER = {"lr": 1.0e-3, "weight_decay": 0.0, "clip_norm": None}


def model(backbones: TinyBackbones, **settings: Any) -> dict[str, Any]:
    """Of both phases."""
    clip = backbones.llama.parent / "clip-image"
    if not clip.exists():
        build_clip_image(clip)
    root = str(backbones.stable_diffusion)
    arguments = {
        "optimizer": _OPTIMIZER,
        "backbone": root,
        "unet": root,
        "image_encoder": str(clip),
        "hidden_dim": 16,
        "sampling": {"num_steps": 2},
        "micro_batch_size": 2,
        **settings,
    }
    return {"class_path": "mmig.methods.umm_diffusion.module.UMMDiffusionModule", "init_args": arguments}


def phase1(backbones: TinyBackbones) -> dict[str, Any]:
    """The MLP."""
    return model(backbones, phase=1)


def phase2(backbones: TinyBackbones) -> dict[str, Any]:
    """The MLP and the UNet; this one slowly, for the first steps go by signs of gradients, also of mere rounding."""
    return model(backbones, phase=2, optimizer={**_OPTIMIZER, "groups": {"unet": {"lr": 2.0e-4}}})


_DATA = {"attachment_size": IMAGE_SIZE}
_EDIT: dict[str, Any] = {
    "instruction": "a <image:0> circle in the middle",
    "inputs": ("--attach", "image={folder}/picture.png"),
}
CASES = {
    "phase2": Case(phase2, samples, _DATA, **_EDIT),
    "phase1": Case(phase1, samples, _DATA, **_EDIT, repeats=True),
}
