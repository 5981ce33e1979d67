"""MM-Adapter (eq 6).

How adapters reach the layers of a model is `mmig/methods/mmig/llm/adapter_hooks.py`; who computes the mixture weights
of the LLM is `mmig/methods/mmig/llm/multimodal.py`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupedUp(nn.Module):
    """Up-projection whose matrix is block diagonal, zero at the start.

    Args:
        rank: width that comes in.
        dim: width that goes out.
        groups: blocks; each maps rank/groups entries to dim/groups.
    """

    def __init__(self, rank: int, dim: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(dim, rank // groups))
        self.bias = nn.Parameter(torch.zeros(dim))

    def dense(self) -> Tensor:
        """The whole block-diagonal matrix, [dim,rank]."""
        return torch.block_diag(*self.weight.chunk(self.groups))

    def forward(self, hidden: Tensor) -> Tensor:
        """[...,rank] -> [...,dim]."""
        return F.linear(hidden, self.dense().to(hidden.dtype), self.bias.to(hidden.dtype))


class MMAdapter(nn.Module):
    """Mixture-of-modality adapter (MMIG paper, eq 6; LaVIN): one down-projection, two up-projections, a router.

    Z' = H + s (w0 (B0 u + b0) + w1 (B1 u + b1)) with u = drop(A H + a) and (w0, w1) = softmax((W q + b) / tau). A is
    shared: only so do the parameters come to the published 3.8M. The identity at the start.

    Args:
        dim: width of H and of the routing vector q.
        rank: width of u.
        groups: blocks of each up-projection.
        temperature: tau; 10 for the 7B model, 5 for the 13B one.
        scale: s.
        dropout: rate of u, in training.

    Raises:
        ValueError: groups do not divide rank and dim, or a value out of range.
    """

    def __init__(
        self,
        dim: int,
        rank: int = 8,
        groups: int = 2,
        temperature: float = 10.0,
        scale: float = 1.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check_sizes(dim, rank, groups, dropout)
        if not temperature > 0:
            raise ValueError(f"adapter temperature: expected a number above 0, found {temperature}")
        self.dim, self.temperature, self.scale = dim, temperature, scale
        self.down = _down(dim, rank)
        self.ups = nn.ModuleList([GroupedUp(rank, dim, groups) for _ in range(2)])
        self.router = nn.Linear(dim, 2)
        self.dropout = nn.Dropout(dropout)

    def weights(self, routing: Tensor) -> Tensor:
        """Mixture weights (w0, w1) of each sample (eq 6).

        Args:
            routing: q, [B,dim]: a modality's embedding, or the state of a sample's first token.

        Returns:
            float32 [B,2], each row summing to 1.
        """
        _check_width(self.dim, routing)
        logits = F.linear(routing.to(self.router.weight.dtype), self.router.weight, self.router.bias)
        return torch.softmax(logits.float() / self.temperature, dim=-1)

    def forward(self, hidden: Tensor, weights: Tensor) -> Tensor:
        """Adapt a sequence (eq 6).

        Args:
            hidden: H, the normalised input of a layer's attention, [B,N,dim].
            weights: of each sample, [B,2].

        Returns:
            Z', [B,N,dim], dtype of `hidden`.

        Raises:
            ValueError: other shapes.
        """
        _check_width(self.dim, hidden)
        if hidden.ndim != 3 or weights.shape != (hidden.shape[0], 2):
            raise ValueError(
                f"MMAdapter: expected hidden [B,N,{self.dim}] and weights [B,2], "
                f"found {tuple(hidden.shape)} and {tuple(weights.shape)}"
            )
        weights = weights.to(hidden.dtype)
        inner = self.dropout(_project(self.down, hidden))
        # both branches as one product: [w0 u, w1 u] against [B0, B1]; one tensor of the full width, not three
        scaled = (inner[:, :, None] * weights[:, None, :, None]).flatten(2)
        matrix = torch.cat([up.dense() for up in self.ups], dim=1).to(hidden.dtype)
        bias = weights @ torch.stack([up.bias for up in self.ups]).to(hidden.dtype)
        return hidden + self.scale * (F.linear(scaled, matrix) + bias[:, None])


def _down(dim: int, rank: int) -> nn.Linear:
    down = nn.Linear(dim, rank)
    nn.init.xavier_uniform_(down.weight)
    nn.init.zeros_(down.bias)
    return down


def _project(linear: nn.Linear, hidden: Tensor) -> Tensor:
    """The layer in the precision of its input: frozen backbones run in bf16, adapters are stored in float32."""
    return F.linear(hidden, linear.weight.to(hidden.dtype), linear.bias.to(hidden.dtype))


def _check_sizes(dim: int, rank: int, groups: int, dropout: float) -> None:
    if groups < 1 or rank < 1 or rank % groups or dim % groups:
        raise ValueError(
            f"adapter groups: expected a divisor of rank and width, found {groups} for rank {rank} and width {dim}"
        )
    if not (0 <= dropout < 1 and math.isfinite(dropout)):
        raise ValueError(f"adapter dropout: expected a rate in [0, 1), found {dropout}")


def _check_width(dim: int, tensor: Tensor) -> None:
    if tensor.shape[-1] != dim:
        raise ValueError(f"adapter: expected width {dim}, found a tensor {tuple(tensor.shape)}")
