"""Pipelines of tiny backbones, and pictures for them."""

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import nn

from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.parts import BackboneConfig, MMSMConfig, load_parts
from mmig.methods.mmig.pipeline import MMIGPipeline, SamplingConfig
from tests.tiny_fixtures import TinyBackbones

TEXT = "a blue circle and a red square"
FAST = SamplingConfig(num_steps=2, guidance_scale=3.0)


def build(folders: TinyBackbones, concat: bool, whole: bool, trained: bool) -> MMIGPipeline:
    torch.manual_seed(0)
    backbones = BackboneConfig(
        str(folders.stable_diffusion),
        str(folders.llama),
        unet=str(folders.instruct_pix2pix) if concat else None,
        vision=str(folders.clip_vision) if whole else None,
        captioner=str(folders.blip2) if whole else None,
    )
    parts = load_parts(backbones, MMSMConfig(dim=16, heads=2))
    parts.scheduler = DDIMScheduler.from_config(parts.scheduler.config)
    model = MMIG(parts, "concat" if concat else "img2img", MultimodalConfig(max_response_tokens=8)).eval()
    if trained:
        for module in (model.mmsm, model.mllm.adapters):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.1)
    pipeline = MMIGPipeline.from_model(model.requires_grad_(False), FAST)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture(width: int = 64, height: int = 64, mode: str = "RGB") -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert(mode)


def source(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 2 - 1


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
