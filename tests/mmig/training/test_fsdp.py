"""Which parts are gathered by themselves: the large denoisers and text encoders, block by block."""

from pathlib import Path

from mmig.backbones.diffusion_flux import load_denoiser, load_t5_encoder
from mmig.training.fsdp import UNITS
from tests.tiny_flux import build_flux_kontext


def test_flux_and_t5_are_gathered_block_by_block(tmp_path: Path) -> None:
    """What is in no unit is gathered for the time of a whole step."""
    build_flux_kontext(tmp_path)
    flux, t5 = load_denoiser(str(tmp_path)), load_t5_encoder(str(tmp_path))
    for blocks in (flux.transformer_blocks, flux.single_transformer_blocks, t5.encoder.block):
        assert {type(block).__name__ for block in blocks} <= set(UNITS)
