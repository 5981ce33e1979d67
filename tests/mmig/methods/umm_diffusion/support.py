"""UMM-Diffusion on tiny random backbones, and batches of the subjects' world for it."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from PIL import Image

from datamodules.schema import AttachmentSettings, Sample, collate, with_attachment_tensors
from datamodules.tinyworld.sample import with_images
from datamodules.tinyworld.subject_samples import draw_subject_sample
from mmig.methods.umm_diffusion.module import UMMDiffusionModule
from mmig.training.optim import OptimizerConfig
from tests.saved_run import save_run
from tests.tiny_fixtures import IMAGE_SIZE, build_stable_diffusion
from tests.tiny_saving import save, seeded

EMBEDDING_WIDTH = 24
HIDDEN = 16


def build_clip_image(folder: Path, seed: int = 5) -> Path:
    """Write a CLIPVisionModelWithProjection and its image processor."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=40,
        intermediate_size=80,
        projection_dim=EMBEDDING_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    with seeded(seed):
        model = CLIPVisionModelWithProjection(config)
    CLIPImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25]).save_pretrained(folder)
    return save(model, folder, torch.float32)


@cache
def folders() -> tuple[Path, Path]:
    """Stable Diffusion and a CLIP's image side, written once a process."""
    root = Path(mkdtemp())
    return build_stable_diffusion(root / "stable-diffusion"), build_clip_image(root / "clip")


def module(phase: int = 1, **settings: Any) -> UMMDiffusionModule:
    """A module to train."""
    diffusion, clip = map(str, folders())
    torch.manual_seed(0)
    return UMMDiffusionModule(
        OptimizerConfig(lr=1e-3, weight_decay=0.0), diffusion, diffusion, clip, phase, hidden_dim=HIDDEN, **settings
    )


def save_umm_run(folder: Path, **sampling: Any) -> Path:
    """Write a run of phase 1 that draws in two steps."""
    diffusion, clip = map(str, folders())
    arguments = {
        "optimizer": {"lr": 1e-3},
        "backbone": diffusion,
        "unet": diffusion,
        "image_encoder": clip,
        "phase": 1,
        "hidden_dim": HIDDEN,
        "sampling": {"num_steps": 2, **sampling},
    }
    return save_run(folder, "mmig.methods.umm_diffusion.module.UMMDiffusionModule", arguments)


def subject_sample(index: int, split: str = "train") -> Sample:
    """A sample of the subjects' world with PIL images."""
    sample: Any = with_images(draw_subject_sample(0, split, index), _picture)
    return sample


def batch(*indices: int, size: int = IMAGE_SIZE) -> Any:
    """Samples of the subjects' world, their attached pictures as squares of `size` pixels."""
    return as_batch([subject_sample(index) for index in indices], size)


def as_batch(samples: list[Any], size: int = IMAGE_SIZE) -> Any:
    """Samples as `collate` makes a batch of them."""
    settings = AttachmentSettings(attachment_size=size)
    return collate([with_attachment_tensors(sample, settings) for sample in samples], size=(IMAGE_SIZE, IMAGE_SIZE))


def captioned(caption: str, *pictures: Any, **more: Any) -> Any:
    """A sample with this caption and these pictures, whose words the placeholders say."""
    attachments = [{"kind": "image", "role": "subject", "data": picture} for picture in pictures]
    target = Image.effect_noise((IMAGE_SIZE, IMAGE_SIZE), 64).convert("RGB")
    return {"key": "one", "target": target, "target_caption": caption, "attachments": attachments, **more}


def picture(colour: str = "red", side: int = 20) -> Image.Image:
    """A subject."""
    found = Image.new("RGB", (side, side), "white")
    found.paste(colour, (side // 4, side // 4, side, side))
    return found


def _picture(pixels: Any) -> Image.Image:
    return Image.fromarray(pixels.astype("uint8") * 255 if pixels.dtype == bool else pixels)
