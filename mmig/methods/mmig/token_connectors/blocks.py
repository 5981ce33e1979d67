"""Transformer blocks over tokens that all see one another, as encoders and refiners of text states are made of."""

import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Attention of tokens to one another in both directions.

    Args:
        dim: width.
        heads: must divide `dim`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projections = nn.Linear(dim, 3 * dim, bias=False)  # a bias of keys changes no softmax
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """[B,N,dim] from [B,N,dim]; no token looks where the mask, bool [B,N], is false."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.projections(tokens).chunk(3, dim=-1)
        )
        shown = None if mask is None else mask[:, None, None, :]
        answer = F.scaled_dot_product_attention(query, key, value, attn_mask=shown)
        return self.out(answer.transpose(1, 2).flatten(2))


def feed_forward(dim: int, activation: nn.Module) -> nn.Sequential:
    """A hidden layer of four times the width."""
    return nn.Sequential(nn.Linear(dim, 4 * dim), activation, nn.Linear(4 * dim, dim))


class EncoderBlock(nn.Module):
    """A block of a bidirectional encoder: attention, then feed-forward, each normalised before and added.

    Args:
        dim, heads: of the attention.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(dim), SelfAttention(dim, heads)
        self.feed_forward_norm, self.feed_forward = nn.LayerNorm(dim), feed_forward(dim, nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        """[B,N,dim] from [B,N,dim]."""
        tokens = tokens + self.attention(self.attention_norm(tokens), None)
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))


class ModulatedBlock(nn.Module):
    """The same with both branches behind gates that a vector of the sample sets; they start closed.

    Args:
        dim, heads: of the attention.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(dim), SelfAttention(dim, heads)
        self.feed_forward_norm, self.feed_forward = nn.LayerNorm(dim), feed_forward(dim, nn.SiLU())
        self.gates = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        nn.init.zeros_(self.gates[-1].weight)
        nn.init.zeros_(self.gates[-1].bias)

    def forward(self, tokens: Tensor, mask: Tensor, vector: Tensor) -> Tensor:
        """[B,N,dim] from [B,N,dim], a mask bool [B,N] and a vector [B,dim]."""
        attention_gate, feed_forward_gate = self.gates(vector).unsqueeze(1).chunk(2, dim=-1)
        tokens = tokens + attention_gate * self.attention(self.attention_norm(tokens), mask)
        return tokens + feed_forward_gate * self.feed_forward(self.feed_forward_norm(tokens))
