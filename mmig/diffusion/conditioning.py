"""What conditions a denoiser, as one value, and the one call of a diffusers UNet with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True)
class Conditioning:
    """Condition of a batch of samples.

    Attributes:
        tokens: text (or other) states for cross-attention, [B,L,D].
        mask: True at tokens that may be attended to, bool [B,L]; None lets all be, as Stable Diffusion does.
        pooled: one vector a sample, [B,P]; SDXL's `text_embeds`.
        image_latents: latents appended to the noisy ones on the channel axis, [B,c,h,w] (InstructPix2Pix).
        extra: further tensors [B,...] by name for the denoiser's `added_cond_kwargs` (SDXL's `time_ids`).
    """

    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    image_latents: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)


def as_dtype(condition: Conditioning, dtype: torch.dtype) -> Conditioning:
    """The same with tokens, pooled vector and image latents in another dtype."""
    values = {name: getattr(condition, name) for name in ("tokens", "pooled", "image_latents")}
    return replace(condition, **{name: value.to(dtype) for name, value in values.items() if value is not None})


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


def denoise(unet: "UNet2DConditionModel", noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
    """Prediction of a diffusers UNet, [B,C,h,w].

    Args:
        unet: its input channels are those of `noisy` plus those of `condition.image_latents`.
        noisy: latents x_t, [B,C,h,w].
        timesteps: [B], or a scalar tensor.
        condition: of the same batch size.
    """
    inputs = noisy if condition.image_latents is None else torch.cat([noisy, condition.image_latents], dim=1)
    added = dict(condition.extra)
    if condition.pooled is not None:
        added["text_embeds"] = condition.pooled
    return unet(
        inputs,
        timesteps,
        encoder_hidden_states=condition.tokens,
        encoder_attention_mask=condition.mask,
        added_cond_kwargs=added or None,
    ).sample
