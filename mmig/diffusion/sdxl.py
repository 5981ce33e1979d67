"""What Stable Diffusion XL's denoiser is told beside the noise (Podell et al. 2023): two text encoders, and sizes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.text import split_texts

SIZE_WIDTH = 256
"""Of the sinusoids of each of the six sizes (section 2.2)."""


class TextCondition(NamedTuple):
    """States [B,L,D] of texts, and one vector [B,P] of each; None where a denoiser takes none."""

    tokens: Tensor
    pooled: Tensor | None


@torch.no_grad()
def encode_by_two(encoders: Sequence[nn.Module], tokenizers: Sequence[Any], texts: Sequence[str]) -> TextCondition:
    """The last but one states of both text encoders side by side, and the last one's embedding (section 2.1).

    Args:
        encoders: CLIP's text models; the last with its projection.
        tokenizers: of each.
        texts: cut to one length of the encoders.
    """
    states, pooled = [], None
    for encoder, tokenizer in zip(encoders, tokenizers, strict=True):
        found = encoder(split_texts(tokenizer, texts).ids[:, 0].to(encoder.device), output_hidden_states=True)
        states.append(found.hidden_states[-2])
        pooled = found[0]
    return TextCondition(torch.cat(states, dim=-1), pooled)


def sdxl_embedding(pooled_dim: int) -> dict[str, Any]:
    """What the config of a UNet says that is told a vector [P] of the text and six sizes."""
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_WIDTH,
        "projection_class_embeddings_input_dim": pooled_dim + 6 * SIZE_WIDTH,
    }


def takes_sizes(denoiser: nn.Module) -> bool:
    """Whether a denoiser is told one vector of the text and sizes of the picture, as SDXL is."""
    return denoiser.config.get("addition_embed_type") == "text_time"


def pooled_width(denoiser: nn.Module) -> int | None:
    """P of the vector that SDXL's denoiser takes beside its tokens; None for one that takes none."""
    if not takes_sizes(denoiser):
        return None
    return denoiser.config.projection_class_embeddings_input_dim - 6 * denoiser.config.addition_time_embed_dim


def conditioning(unet: nn.Module, given: TextCondition, size: tuple[int, int]) -> Conditioning:
    """Tokens and pooled vectors as a UNet of either kind takes them.

    Args:
        unet: Stable Diffusion's or SDXL's.
        given: of B samples.
        size: (H, W) of the pictures in pixels.
    """
    if not takes_sizes(unet):
        return Conditioning(given.tokens)
    sizes = time_ids(size, len(given.tokens), given.tokens.device).to(given.tokens.dtype)
    return Conditioning(given.tokens, pooled=given.pooled, extra={"time_ids": sizes})


def time_ids(size: tuple[int, int], count: int, device: torch.device | str = "cpu") -> Tensor:
    """Sizes float32 [count,6] of pictures that were neither scaled nor cut: (H, W), (0, 0), (H, W) (section 2.2).

    Args:
        size: (H, W) in pixels.
        count: B.
        device: of the result.
    """
    return torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=device).expand(count, -1)
