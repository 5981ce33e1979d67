"""What tests of layered edits share: a schedule, latents, embeddings, masks, and a UNet that listens to its text."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from mmig.backbones.diffusion import load_unet
from mmig.diffusion.process import NoiseProcess
from mmig.methods.mmig.layered import LayeredTokens
from tests.tiny_fixtures import TEXT_WIDTH, build_unet

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULER = DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False)
PROCESS = NoiseProcess.from_scheduler(SCHEDULER)
CLEAN, NOISE = torch.randn(2, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = LayeredTokens(*torch.randn(2, 2, 7, TEXT_WIDTH, generator=torch.Generator().manual_seed(1)))
MASK = torch.zeros(2, 1, 16, 16)
MASK[0, :, :8], MASK[1, :, 4:12, 4:12] = 1, 1


def listen(unet: UNet2DConditionModel) -> None:
    """Let a fresh UNet heed its text more than it does."""
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn2" in name and parameter.ndim > 1:
                parameter.mul_(4)


def listening_unet(folder: Path) -> UNet2DConditionModel:
    """A tiny UNet, not frozen, that does."""
    model = load_unet(build_unet(folder), frozen=False).eval()
    listen(model)
    return model


def seeds(*values: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(value) for value in values]
