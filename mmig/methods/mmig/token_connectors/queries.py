"""Learned queries that read the LLM's states, and a bidirectional encoder behind, after MetaQuery."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmig.base.values import check_values
from mmig.methods.mmig.mmsm import CrossAttention
from mmig.methods.mmig.token_connectors.blocks import EncoderBlock
from mmig.methods.mmig.token_connectors.connector import ConnectorSettings, Place, TokenConnector, check_heads


@dataclass
class LearnedQueries(ConnectorSettings):
    """Settings of the learned queries; MetaQuery has 77 of them for Stable Diffusion 1.5 and 24 layers behind.

    Attributes:
        number: of queries, and of tokens.
        dim: width of queries and encoder.
        heads: of all attention.
        layers: of the encoder.
        place: where the tokens stand.
    """

    number: int = 77
    dim: int = 768
    heads: int = 8
    layers: int = 2
    place: Place = "replace"

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        many = (1, float("inf"))
        check_values(self, "connector", number=many, dim=many, heads=many, layers=many)
        check_heads(self.dim, self.heads)

    def build(self, text_dim: int, token_dim: int) -> "QueryConnector":
        """A fresh one."""
        return QueryConnector(text_dim, token_dim, self)


class QueryConnector(TokenConnector):
    """As many tokens as queries, whatever the length of the text.

    MetaQuery's queries go through the frozen language model, behind the text. Here they attend to its last states, so
    that these may be cached and are the same that every other connector gets. What follows is MetaQuery's: encoder,
    Linear, GELU, Linear, RMSNorm, whose gain times `scale` is preset to the size of the denoiser's text states.

    Args:
        text_dim: width of the states.
        token_dim: width of the tokens.
        settings: the rest.
    """

    def __init__(self, text_dim: int, token_dim: int, settings: LearnedQueries) -> None:
        super().__init__(settings)
        dim = settings.dim
        self.queries = nn.Parameter(torch.randn(settings.number, dim))
        self.into = nn.Linear(text_dim, dim)
        self.reading = CrossAttention(dim, settings.heads)
        self.encoder = nn.ModuleList(EncoderBlock(dim, settings.heads) for _ in range(settings.layers))
        self.out = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, token_dim), nn.RMSNorm(token_dim, eps=1e-6)
        )

    def tokens(self, states: Tensor, mask: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """As `TokenConnector` says; every token counts."""
        queries = self.queries.expand(len(states), -1, -1)
        tokens = queries + self.reading(queries, self.into(states), mask)
        for block in self.encoder:
            tokens = block(tokens)
        return self.out(tokens), torch.ones_like(tokens[..., 0], dtype=torch.bool)
