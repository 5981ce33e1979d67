"""Tiny denoisers of other kinds than Stable Diffusion's, with random weights, and what each is conditioned on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from mmig.diffusion.conditioning import Conditioning, denoise
from tests.tiny_sdxl import sdxl_unet

LENGTH, WIDTHS, POOLED, BATCH = 7, (12, 20), 18, 2
"""Text tokens, the widths of SDXL's two text encoders (its tokens hold both), the width of pooled text, samples."""


@dataclass(frozen=True)
class Kind:
    """A denoiser and how it is called.

    Attributes:
        build: makes the denoiser. condition: what it is conditioned on.
        call: its forward with arguments written out: (model, latents, timesteps, condition) -> output.
        size: (h, w) of the latents of the tests. maps: (h, w) at which it attends to text in `layers`.
        location: of a mixer, where feature maps have `width` channels and (h, w) `feature_grid`.
    """

    build: Callable[[], nn.Module]
    condition: Callable[[], Conditioning]
    call: Callable[[nn.Module, Tensor, Tensor, Conditioning], Tensor]
    size: tuple[int, int]
    maps: tuple[int, int]
    layers: tuple[str, ...]
    location: str
    width: int
    feature_grid: tuple[int, int]

    def latents(self) -> Tensor:
        """Noisy latents [B,4,h,w]."""
        return draw(BATCH, 4, *self.size)

    def predict(self, model: nn.Module, condition: Conditioning | None = None) -> Tensor:
        """A prediction for fixed latents."""
        return denoise(model, self.latents(), torch.tensor([3, 900]), condition or self.condition())


def draw(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build_sdxl() -> UNet2DConditionModel:
    """SDXL's shape, frozen."""
    torch.manual_seed(0)
    return sdxl_unet((16, 32), sum(WIDTHS), POOLED).requires_grad_(False)


def sdxl_condition() -> Conditioning:
    """The states of two text encoders side by side, the second one's pooled vector, and sizes as integers."""
    tokens = torch.cat([draw(BATCH, LENGTH, width, seed=width) for width in WIDTHS], dim=-1)
    time_ids = torch.tensor([[1024, 768, 0, 0, 1024, 1024], [512, 512, 8, 16, 1024, 1024]])
    return Conditioning(tokens, pooled=draw(BATCH, POOLED), extra={"time_ids": time_ids})


def call_sdxl(model: nn.Module, latents: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
    """SDXL as its pipeline calls it."""
    added = {"text_embeds": condition.pooled, "time_ids": condition.extra["time_ids"]}
    return model(latents, timesteps, encoder_hidden_states=condition.tokens, added_cond_kwargs=added).sample


def build_pixart() -> PixArtTransformer2DModel:
    """PixArt-alpha's shape, which predicts the variance too and is told resolution and aspect ratio."""
    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=48,
        sample_size=16,
        patch_size=2,
        caption_channels=sum(WIDTHS),
        use_additional_conditions=True,
        norm_num_groups=8,
    )
    return awake(model)


def pixart_condition() -> Conditioning:
    """Text states with their mask, resolution and aspect ratio."""
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [4]])
    extra = {"resolution": torch.tensor([[128.0, 96.0]] * BATCH), "aspect_ratio": torch.tensor([[1.33]] * BATCH)}
    return Conditioning(draw(BATCH, LENGTH, sum(WIDTHS)), mask, extra=extra)


def call_pixart(model: nn.Module, latents: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
    """PixArt as its pipeline calls it, which leaves the variance out."""
    output = model(
        latents,
        encoder_hidden_states=condition.tokens,
        encoder_attention_mask=condition.mask,
        timestep=timesteps,
        added_cond_kwargs=dict(condition.extra),
    ).sample
    return output.chunk(2, dim=1)[0]


def build_sd3() -> SD3Transformer2DModel:
    """Stable Diffusion 3.5's shape: joint attention with normalised queries and keys, one layer with a second one."""
    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=sum(WIDTHS),
        caption_projection_dim=32,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=24,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return awake(model)


def sd3_condition() -> Conditioning:
    """Text states and a pooled vector."""
    return Conditioning(draw(BATCH, LENGTH, sum(WIDTHS)), pooled=draw(BATCH, POOLED))


def call_sd3(model: nn.Module, latents: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
    """Stable Diffusion 3 as its pipeline calls it."""
    return model(
        hidden_states=latents,
        timestep=timesteps,
        encoder_hidden_states=condition.tokens,
        pooled_projections=condition.pooled,
    ).sample


def awake(model: Any) -> Any:
    """A frozen transformer whose gates are open: random ones are nearly closed, so that no block would matter."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".norm1" in name or "adaln" in name or "scale_shift_table" in name:
                value.add_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    return model.requires_grad_(False)


KINDS = {
    "sdxl": Kind(
        build_sdxl,
        sdxl_condition,
        call_sdxl,
        size=(16, 24),
        maps=(8, 12),
        layers=tuple(
            f"{block}.transformer_blocks.{layer}.attn2"
            for block in (
                "down_blocks.1.attentions.0",
                "mid_block.attentions.0",
                "up_blocks.0.attentions.0",
                "up_blocks.0.attentions.1",
            )
            for layer in range(2)
        ),
        location="mid_block",
        width=32,
        feature_grid=(8, 12),
    ),
    "pixart": Kind(
        build_pixart,
        pixart_condition,
        call_pixart,
        size=(16, 24),
        maps=(8, 12),
        layers=tuple(f"transformer_blocks.{layer}.attn2" for layer in range(3)),
        location="transformer_blocks.1",
        width=48,
        feature_grid=(8, 12),
    ),
    "sd3": Kind(
        build_sd3,
        sd3_condition,
        call_sd3,
        size=(16, 24),
        maps=(8, 12),
        layers=tuple(f"transformer_blocks.{layer}.attn" for layer in range(3)),
        location="transformer_blocks.1",
        width=32,
        feature_grid=(8, 12),
    ),
}
