"""What a connector is that makes tokens of the LLM's states e0 for the denoiser's cross-attention, and how its settings
build it. The kinds are the files beside this one; the other way to the denoiser, a change of its feature maps, is MMSM.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmig.diffusion.conditioning import Conditioning
from mmig.language.sequences import ResponseStates

Place = Literal["replace", "append"]
"""Where the tokens stand: in place of the text encoder's, or behind them."""


class TokenConnector(nn.Module, ABC):
    """Makes tokens of text states; a kind says how in `tokens`.

    Args:
        settings: that it is built from.

    Attributes:
        settings: them.
        place: where the tokens stand.
        scale: what the tokens are multiplied with, float32; 0 until it is measured (`scale.py`), which counts as 1.
    """

    scale: Tensor

    def __init__(self, settings: "ConnectorSettings") -> None:
        super().__init__()
        self.settings, self.place = settings, settings.place
        self.register_buffer("scale", torch.zeros(()))

    @abstractmethod
    def tokens(self, states: Tensor, mask: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B,N,D] before `scale`, and which of them count, bool [B,N].

        Args:
            states: [B,L,text_dim], zero where they do not count.
            mask: bool [B,L] with a true entry in every row.
            timesteps: [B].
        """

    def forward(self, states: Tensor, mask: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B,N,D], zero where they do not count, and which count, bool [B,N].

        Args:
            states: e0, [B,L,text_dim]; what stands at masked positions has no influence at all.
            mask: [B,L], nonzero where a state counts. Of a row of zeros no token does.
            timesteps: [B], of the noise.
        """
        mask = mask.bool()
        has_text = mask.any(dim=1, keepdim=True)
        states = states.to(self.dtype).masked_fill(~mask.unsqueeze(-1), 0)
        tokens, counts = self.tokens(states, mask | ~has_text, timesteps)
        counts = counts & has_text
        scaled = tokens * torch.where(self.scale > 0, self.scale, 1.0).to(tokens.dtype)
        return torch.where(counts.unsqueeze(-1), scaled, 0.0), counts

    def condition(
        self, condition: Conditioning, states: ResponseStates, timesteps: Tensor, active: Tensor | None = None
    ) -> Conditioning:
        """The condition with the tokens in it.

        Args:
            condition: with the text encoder's states.
            states: e0 with its mask.
            timesteps: [B], or a scalar tensor.
            active: bool [B]; false for rows that keep the text alone, as those without e0 do.
        """
        timesteps = timesteps.to(states.states.device).expand(len(states.states))
        tokens, counts = self(states.states, states.mask, timesteps)
        if active is not None:
            counts = counts & active.bool().unsqueeze(1)
        text = condition.tokens
        shown = torch.ones_like(text[..., 0], dtype=torch.bool) if condition.mask is None else condition.mask
        tokens = tokens.to(text.dtype)
        if self.place == "append":
            joined, mask = torch.cat([text, tokens], dim=1), torch.cat([shown, counts], dim=1)
        else:
            length = max(text.shape[1], tokens.shape[1])
            rows = counts.any(dim=1, keepdim=True)
            joined = torch.where(rows.unsqueeze(-1), _longer(tokens, length), _longer(text, length))
            mask = torch.where(rows, _longer(counts, length), _longer(shown, length))
        return replace(condition, tokens=joined, mask=mask)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype


class ConnectorSettings(ABC):
    """Sizes of a kind of connector, as a configuration gives them under `connector`; see the classes beside.

    Attributes:
        place: where the tokens stand.
    """

    place: Place

    @abstractmethod
    def build(self, text_dim: int, token_dim: int) -> TokenConnector:
        """A fresh connector.

        Args:
            text_dim: width of the LLM's states.
            token_dim: width of the tokens that the denoiser reads.
        """

    def as_section(self) -> dict[str, Any]:
        """`class_path` and `init_args`, from which `mmig.base.settings.instantiate` makes the same settings."""
        return {"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": dict(vars(self))}


def check_heads(dim: int, heads: int) -> None:
    """Raise ValueError where heads do not divide a width."""
    if dim % heads:
        raise ValueError(f"connector.heads: expected a divisor of connector.dim = {dim}, found {heads}")


def _longer(values: Tensor, length: int) -> Tensor:
    """[B,n] or [B,n,D] with zeros behind, [B,length,...]."""
    missing = length - values.shape[1]
    return F.pad(values, (0, 0, 0, missing) if values.ndim == 3 else (0, missing))
