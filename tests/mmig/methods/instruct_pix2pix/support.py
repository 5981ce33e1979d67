"""The edits of diffusers' pipelines of InstructPix2Pix, for ours to be held against."""

from typing import Any

import torch
from torch import Tensor

SAMPLING = {"num_steps": 4, "guidance_scale": 5.0, "image_guidance_scale": 1.5}
"""The settings of ours that ask for the same."""


def published(pipeline: Any, image: Tensor, text: str) -> Tensor:
    """One edit [1,3,64,64] in [0,1], from the noise of seed 7."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        text,
        image=image,
        latents=torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7)),
        num_inference_steps=4,
        guidance_scale=5.0,
        image_guidance_scale=1.5,
        output_type="pt",
    ).images
