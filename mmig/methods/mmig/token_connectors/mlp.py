"""An MLP on each of the LLM's states, as UniWorld-V1 and BLIP3o-NEXT have one."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from mmig.base.values import check_values
from mmig.methods.mmig.token_connectors.connector import ConnectorSettings, Place, TokenConnector


@dataclass
class MLP(ConnectorSettings):
    """Settings of the MLP.

    UniWorld-V1: text_dim -> 3 token_dim -> token_dim with SiLU between, the defaults. BLIP3o-NEXT: text_dim ->
    token_dim -> token_dim with GELU, an RMSNorm behind.

    Attributes:
        hidden: width between; None for three times the tokens'.
        activation: between.
        norm: an RMSNorm behind, whose gains train.
        place: where the tokens stand.
    """

    hidden: int | None = None
    activation: Literal["silu", "gelu"] = "silu"
    norm: bool = False
    place: Place = "replace"

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        check_values(self, "connector", hidden=(1, float("inf")))

    def build(self, text_dim: int, token_dim: int) -> "MLPConnector":
        """A fresh one."""
        return MLPConnector(text_dim, token_dim, self)


class MLPConnector(TokenConnector):
    """One token a state.

    Args:
        text_dim: width of the states.
        token_dim: width of the tokens.
        settings: the rest.
    """

    def __init__(self, text_dim: int, token_dim: int, settings: MLP) -> None:
        super().__init__(settings)
        hidden = settings.hidden or 3 * token_dim
        self.layers = nn.Sequential(
            nn.Linear(text_dim, hidden),
            nn.SiLU() if settings.activation == "silu" else nn.GELU(),
            nn.Linear(hidden, token_dim),
            *([nn.RMSNorm(token_dim, eps=1e-6)] if settings.norm else []),
        )

    def tokens(self, states: Tensor, mask: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """As `TokenConnector` says."""
        return self.layers(states), mask
