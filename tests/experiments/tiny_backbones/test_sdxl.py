"""The tiny editing UNet in SDXL's form computes at first what it did."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLInstructPix2PixPipeline

from experiments.tiny_backbones import sdxl
from mmig.backbones.diffusion import load_unet
from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.sdxl import time_ids
from tests.mmig.methods.instruct_any2pix.support import path


@torch.no_grad()
def test_what_it_computes_is_carried_over() -> None:
    unet = load_unet(sdxl.EDITOR)
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(160, 128, generator=generator).double()
    read = torch.randn(3, 5, 160, generator=generator)
    made = sdxl.in_sdxl_form(unet, mixed.float(), pooled_dim=7)
    noisy, timesteps = torch.randn(3, 8, 16, 16, generator=generator), torch.tensor([1, 500, 999])
    told = {"time_ids": time_ids((64, 64), 3)}
    found = denoise(made, noisy, timesteps, Conditioning(read, pooled=torch.ones(3, 7), extra=told))
    expected = denoise(unet, noisy, timesteps, Conditioning((read.double() @ mixed).float()))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_least_squares_finds_a_map_and_says_what_is_left() -> None:
    generator = torch.Generator().manual_seed(0)
    read, wanted = torch.randn(500, 6, generator=generator), torch.randn(6, 4, generator=generator)
    found, explained = sdxl.least_squares(read, read @ wanted)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
    assert explained == pytest.approx(1.0, abs=1e-6)
    _, explained = sdxl.least_squares(read, torch.randn(500, 4, generator=generator))
    assert explained < 0.05


def test_diffusers_opens_what_is_written(tmp_path: Path) -> None:
    explained = sdxl.write_sdxl(path("imagebind"), ["", "make the circle red", "turn it into a drawing"], tmp_path)
    assert 0.9 < explained <= 1.0  # of three texts as good as all
    found = StableDiffusionXLInstructPix2PixPipeline.from_pretrained(tmp_path)
    assert found.unet.config.cross_attention_dim == 128 + 32
    assert not found.unet.add_embedding.linear_2.weight.any()
