"""Multi-modality mutual support module: equations 9-13 of the MMIG paper, and nothing about where it is attached.

The text states of the LLM (e0) and a feature map of the denoiser (e1) are brought to one width, the features attend to
the text, and the result is added to the feature map. How a module is attached to a denoiser:
`mmig/diffusion/injection.py`.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MMSMOutput(NamedTuple):
    """What one call computes.

    Attributes:
        feature_map: e6, [B,C,h,w], dtype of the given feature map.
        alignment_loss: L_MMSM, one value a sample, float32 [B]; 0 for rows without text.
        pooled_text: masked mean of e3 over the tokens, float32 [B,d]; 0 for rows without text.
        pooled_map: mean of e2 over the places, float32 [B,d].
    """

    feature_map: Tensor
    alignment_loss: Tensor
    pooled_text: Tensor
    pooled_map: Tensor


class MMSM(nn.Module):
    """The mutual support module (MMIG paper, equations 9-13).

    The decoder's last layer starts at zero, so a new module leaves the feature map exactly as it is.

    Args:
        text_dim: width D of the text states e0 (the LLM's hidden size).
        feature_dim: channels C of the feature map e1.
        dim: common width d of e2, e3 and e4.
        heads: heads of the cross-attention; must divide `dim`.
        start: in place of zero, the root mean square of what a fresh module adds, as a part of that of the text
            encoder's states. The decoder's last layer then starts as torch has it and `scale` is measured before the
            first step (`mmsm_start.py`); until then nothing is added.

    Attributes:
        scale: what the decoder's output is multiplied with, float32; only with a `start`, and 0 until it is measured.

    Raises:
        ValueError: `heads` does not divide `dim`; a `start` that is no size.
    """

    def __init__(self, text_dim: int, feature_dim: int, dim: int = 768, heads: int = 8, start: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"mmsm.heads: expected a divisor of mmsm.dim = {dim}, found {heads}")
        if not 0 <= start < math.inf:
            raise ValueError(f"mmsm.start: expected a number of at least 0, found {start}")
        self.start = start
        self.feature_dim = feature_dim
        self.text_dim = text_dim
        self.text_encoder = nn.Sequential(
            nn.LayerNorm(text_dim), nn.Linear(text_dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        self.feature_encoder = nn.Sequential(
            nn.GroupNorm(num_groups(feature_dim), feature_dim),
            nn.Conv2d(feature_dim, dim, 1),
            nn.SiLU(),
            nn.Conv2d(dim, dim, 3, padding=1),
        )
        self.cross_attention = CrossAttention(dim, heads)
        self.feature_decoder = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1), nn.SiLU(), nn.Conv2d(dim, feature_dim, 1)
        )
        if start:
            self.register_buffer("scale", torch.zeros(()))
        else:
            nn.init.zeros_(self.feature_decoder[-1].weight)
            nn.init.zeros_(self.feature_decoder[-1].bias)

    def forward(self, feature_map: Tensor, text_states: Tensor, text_mask: Tensor) -> MMSMOutput:
        """Mix text into a feature map.

        Args:
            feature_map: e1, [B,C,h,w], any h and w.
            text_states: e0, [B,L,D], any L; what stands at masked positions has no influence at all.
            text_mask: [B,L], nonzero where a token counts. A row of zeros passes unchanged, with loss 0.
        """
        mask = text_mask.bool()
        has_text = mask.any(dim=1)
        dtype = self.feature_decoder[-1].weight.dtype
        text = self.text_encoder(text_states.to(dtype).masked_fill(~mask.unsqueeze(-1), 0))  # (9): e3 [B,L,d]
        encoded = self.feature_encoder(feature_map.to(dtype))  # (10): e2 on its grid [B,d,h,w]
        features = encoded.flatten(2).transpose(1, 2)  # e2 [B,N,d]
        # A row without text may look at every key, so that its softmax is finite; its result is thrown away below.
        attended = self.cross_attention(features, text, mask | ~has_text.unsqueeze(1))  # (11): e4 [B,N,d]
        change = self.feature_decoder(attended.transpose(1, 2).unflatten(2, encoded.shape[2:]))
        change = change * self.scale.to(change.dtype) if self.start else change
        mixed = feature_map + change.to(feature_map.dtype)  # (12): e6
        pooled_text, pooled_map = masked_mean(text, mask), features.float().mean(dim=1)
        return MMSMOutput(
            torch.where(has_text.view(-1, 1, 1, 1), mixed, feature_map),
            torch.where(has_text, alignment_loss(pooled_text, pooled_map), 0.0),
            pooled_text,
            pooled_map,
        )


class CrossAttention(nn.Module):
    """Equation (11): features ask, text answers; layer norm before queries and before keys and values.

    Args:
        dim: width of queries, keys and result.
        heads: number of heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm, self.text_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, features: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Return e4 [B,N,d] from e2 [B,N,d], e3 [B,L,d] and a bool mask [B,L] with a true entry in every row."""
        asked, told = self.query_norm(features), self.text_norm(text)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(asked), self.key(told), self.value(told))
        )
        answer = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        return self.out(answer.transpose(1, 2).flatten(2))


def alignment_loss(pooled_text: Tensor, pooled_map: Tensor) -> Tensor:
    """L_MMSM a sample: 1/2 (e3 - e2)^2, mean over the width, in float32 (MMIG paper, equation 13).

    The equation compares a sequence with a map of another size; both are pooled first, which makes the loss
    independent of the number of tokens and of padding. No gradient is stopped on either side.

    Args:
        pooled_text: [B,d].
        pooled_map: [B,d].

    Returns:
        float32 [B].
    """
    return 0.5 * (pooled_text.float() - pooled_map.float()).square().mean(dim=-1)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of [B,L,d] over the positions where `mask` [B,L] is true, float32 [B,d]; 0 where there is none."""
    kept = states.float().masked_fill(~mask.unsqueeze(-1), 0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def num_groups(channels: int) -> int:
    """Groups for GroupNorm: 32 as at the published sizes, or the largest smaller number that divides `channels`."""
    return next(groups for groups in range(32, 0, -1) if channels % groups == 0)
