"""What conditions a denoiser, as one value, and the one call of a denoiser of diffusers with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmig.diffusion.kinds import kind_of
from mmig.diffusion.unfit import ConditioningError

__all__ = ["Conditioning", "ConditioningError", "as_dtype", "concatenate", "condition_drops", "denoise"]


@dataclass(frozen=True)
class Conditioning:
    """Condition of a batch of samples.

    Attributes:
        tokens: text (or other) states for cross-attention, [B,L,D].
        mask: True at tokens that may be attended to, bool [B,L]; None lets all be, as Stable Diffusion does.
        pooled: one vector a sample, [B,P]; SDXL's `text_embeds`, Stable Diffusion 3's `pooled_projections`.
        image_latents: latents appended to the noisy ones, [B,c,h,w]: on the channel axis (InstructPix2Pix), of a FLUX
            transformer as further tokens (Kontext).
        extra: further tensors [B,...] by name: arguments of the denoiser's forward where it has one of that name, else
            entries of its `added_cond_kwargs` (SDXL's `time_ids`, PixArt's `resolution` and `aspect_ratio`).
    """

    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    image_latents: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)


def as_dtype(condition: Conditioning, dtype: torch.dtype) -> Conditioning:
    """The same with tokens, pooled vector, image latents and the floats of `extra` in another dtype; integers stay."""
    values = {name: getattr(condition, name) for name in ("tokens", "pooled", "image_latents")}
    extra = {name: value.to(dtype) if value.is_floating_point() else value for name, value in condition.extra.items()}
    cast = {name: value.to(dtype) for name, value in values.items() if value is not None}
    return replace(condition, **cast, extra=extra)


def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
    """Join conditionings of the same fields on the batch axis."""
    joined: dict[str, Any] = {}
    for item in fields(Conditioning):
        values = [getattr(part, item.name) for part in parts]
        if isinstance(values[0], Tensor):
            joined[item.name] = torch.cat(values)
    extra = {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra}
    return Conditioning(**joined, extra=extra)


def condition_drops(uniform: Tensor, drop: float) -> tuple[Tensor, Tensor]:
    """(drop the text, drop the image), bool [B] each, from one uniform draw a sample and d = `drop`.

    d lose the text alone, d both and d the image (InstructPix2Pix, Brooks et al. 2023, section 3.2.1).
    """
    return uniform < 2 * drop, (uniform >= drop) & (uniform < 3 * drop)


def denoise(denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
    """Prediction of a denoiser of diffusers (a UNet, SDXL's too, or a diffusion transformer), [B,C,h,w].

    Args:
        denoiser: of any kind (`mmig.diffusion.kinds`); one that takes maps has the input channels of `noisy` plus those
            of `condition.image_latents`.
        noisy: latents x_t, [B,C,h,w].
        timesteps: [B], or a scalar tensor.
        condition: of the same batch size.

    Raises:
        ConditioningError: the denoiser takes no mask, or nothing of a name in `extra`.
    """
    return kind_of(denoiser).predict(denoiser, noisy, timesteps.expand(len(noisy)), condition)
