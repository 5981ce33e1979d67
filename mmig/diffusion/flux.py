"""FLUX's transformers (Black Forest Labs 2024): latents packed 2x2 into tokens, joint attention with the text, rotary
positions of three axes. FLUX.1 Kontext (2025) appends the tokens of the source behind those of the noisy latents, with
a 1 in the first coordinate of their positions.

Facts of the layout: diffusers' FluxKontextPipeline and FluxTransformer2DModel.
"""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmig.diffusion.unfit import ConditioningError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from mmig.diffusion.conditioning import Conditioning

PATCH = 2


def pack(latents: Tensor) -> Tensor:
    """Latents [B,C,h,w] as tokens [B,(h/2)(w/2),4C], row by row; channels in the order (C, row, column) of a patch.

    Raises:
        ConditioningError: an odd side.
    """
    height, width = latents.shape[2:]
    if height % PATCH or width % PATCH:
        raise ConditioningError(
            f"latents of {height}x{width}: FLUX packs them {PATCH}x{PATCH}, both sides must be even; give an image "
            f"whose sides are multiples of {PATCH} times the autoencoder's factor"
        )
    return F.pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Undo `pack`; `grid` is (h/2, w/2)."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, grid), PATCH)


def position_ids(grid: tuple[int, int], image: int, like: Tensor) -> Tensor:
    """(image, row, column) of each token, [h*w,3]: image 0 are the noisy latents, 1 the source.

    Args:
        grid: (h, w) of the tokens.
        image: first coordinate.
        like: whose dtype and device they have.
    """
    rows, columns = (torch.arange(size, device=like.device) for size in grid)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    return F.pad(places, (1, 0), value=image).to(like.dtype)


def dynamic_shift(config: Mapping[str, Any], tokens: int) -> float:
    """The mu of a scheduler with `use_dynamic_shifting`, linear in the number of tokens; levels are shifted by e^mu.

    Args:
        config: of the scheduler: two numbers of tokens with the mu of each.
        tokens: of the noisy latents.
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    at_low, at_high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (at_high - at_low) / (high - low)
    return tokens * slope + (at_low - slope * low)


class FluxKind:
    """FLUX's transformers, Kontext among them, as of `mmig.diffusion.kinds.DenoiserKind`."""

    made_for = "FluxTransformer2DModel"
    image_entry = 1  # blocks give (text, image)
    reads_pooled = True
    takes_mask = False

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: "Conditioning") -> Tensor:
        """As of the protocol; image latents, normalised as the noisy ones are, become tokens behind those.

        A transformer that was distilled with guidance is told 1 where `condition.extra` names none, as in diffusers'
        recipe for fine-tuning Kontext.
        """
        self._check_condition(condition)
        grid = self.grid((noisy.shape[2], noisy.shape[3]))
        tokens = pack(noisy)
        count, ids = tokens.shape[1], position_ids(grid, 0, tokens)
        source = condition.image_latents
        if source is not None:
            own = self.grid((source.shape[2], source.shape[3]))
            tokens = torch.cat([tokens, pack(source)], dim=1)
            ids = torch.cat([ids, position_ids(own, 1, tokens)])
        guidance = None
        if denoiser.config.guidance_embeds:
            guidance = condition.extra.get("guidance", torch.ones(len(noisy), device=noisy.device))
        prediction = denoiser(
            hidden_states=tokens,
            encoder_hidden_states=condition.tokens,
            pooled_projections=condition.pooled,
            timestep=timesteps / 1000,  # it multiplies by 1000 again
            img_ids=ids,
            txt_ids=ids.new_zeros(condition.tokens.shape[1], 3),
            guidance=guidance,
        ).sample
        return unpack(prediction[:, :count], grid)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Half the latents' sides."""
        return size[0] // PATCH, size[1] // PATCH

    def widths(self, denoiser: nn.Module) -> Mapping[str, int]:
        """Its joint and its single blocks, all of one width."""
        config = denoiser.config
        counts = {"transformer_blocks": config.num_layers, "single_transformer_blocks": config.num_single_layers}
        width = config.num_attention_heads * config.attention_head_dim
        return {f"{name}.{index}": width for name, count in counts.items() for index in range(count)}

    def attention_size(
        self, denoiser: nn.Module, size: tuple[int, int], resolution: tuple[int, int]
    ) -> tuple[int, int]:
        """The tokens' grid: all its blocks have that one."""
        return self.grid(size)

    def usual_resolution(self, denoiser: nn.Module, vae: "AutoencoderKL") -> int:
        """That of its autoencoder (1024 of the published one): the transformer's config says none."""
        return vae.config.sample_size

    def guidance(self, denoiser: nn.Module, scale: float, count: int) -> Mapping[str, Tensor]:
        """The embedded scale, where it was distilled with one."""
        if not denoiser.config.guidance_embeds:
            return {}
        return {"guidance": torch.full((count,), scale, device=denoiser.device)}

    def schedule(self, scheduler: Any, num_steps: int, size: tuple[int, int]) -> Mapping[str, Any]:
        """Noise levels 1, 1 - 1/n, ..., 1/n before the shift, and mu where that depends on the number of tokens."""
        takes = inspect.signature(scheduler.set_timesteps).parameters
        if "sigmas" not in takes:
            return {}
        named: dict[str, Any] = {"sigmas": np.linspace(1.0, 1 / num_steps, num_steps)}
        if scheduler.config.get("use_dynamic_shifting", False):
            height, width = self.grid(size)
            named["mu"] = dynamic_shift(scheduler.config, height * width)
        return named

    def check(self, denoiser: nn.Module, latent_channels: int, source_conditioning: str) -> None:
        """Its tokens hold a patch of the latents and nothing else."""
        if source_conditioning == "concat":
            raise ValueError(
                f"source_conditioning 'concat' appends channels, and a {type(denoiser).__name__} takes the source as "
                "tokens; expected 'sequence', or 'img2img'"
            )
        expected, found = PATCH**2 * latent_channels, denoiser.config.in_channels
        if found != expected:
            raise ValueError(
                f"{type(denoiser).__name__}: in_channels: expected {expected}, the {PATCH}x{PATCH} patches of "
                f"{latent_channels} latent channels, found {found}; give parts of one model"
            )

    def _check_condition(self, condition: "Conditioning") -> None:
        if condition.mask is not None:
            raise ConditioningError(
                f"denoiser {self.made_for} takes no mask of the tokens (encoder_attention_mask); leave it out"
            )
        if condition.pooled is None:
            raise ConditioningError(f"denoiser {self.made_for} needs one vector of the text (pooled_projections)")
        if unknown := sorted(condition.extra.keys() - {"guidance"}):
            raise ConditioningError(f"denoiser {self.made_for} takes no condition {unknown[0]}; leave it out")
