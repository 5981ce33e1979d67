"""A refiner of the LLM's states that the noise level modulates, as Step1X-Edit has one."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmig.base.values import check_values
from mmig.methods.mmig.mmsm import masked_mean
from mmig.methods.mmig.token_connectors.blocks import ModulatedBlock
from mmig.methods.mmig.token_connectors.connector import ConnectorSettings, Place, TokenConnector, check_heads

TIME_FREQUENCIES = 256
GLOBAL_GAIN = 0.09
"""Of the global vector at the start, as Step1X-Edit's."""


@dataclass
class Refiner(ConnectorSettings):
    """Settings of the refiner; Step1X-Edit has two blocks.

    Attributes:
        dim: width of the blocks.
        heads: of their attention.
        layers: number of blocks.
        place: where the tokens stand.
    """

    dim: int = 768
    heads: int = 8
    layers: int = 2
    place: Place = "replace"

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        check_values(self, "connector", dim=(1, float("inf")), heads=(1, float("inf")), layers=(1, float("inf")))
        check_heads(self.dim, self.heads)

    def build(self, text_dim: int, token_dim: int) -> "RefinerConnector":
        """A fresh one."""
        return RefinerConnector(text_dim, token_dim, self)


class RefinerConnector(TokenConnector):
    """One token a state, through blocks whose gates know the noise level and the states' mean, and one token more.

    Step1X-Edit adds the last, a projection of the mean times a gain, to the vector that modulates its transformer; the
    UNet of Stable Diffusion reads no such vector, so that here it is a token behind the others.

    Args:
        text_dim: width of the states.
        token_dim: width of the tokens.
        settings: the rest.
    """

    def __init__(self, text_dim: int, token_dim: int, settings: Refiner) -> None:
        from diffusers.models.embeddings import TimestepEmbedding

        super().__init__(settings)
        dim = settings.dim
        self.into = nn.Linear(text_dim, dim)
        self.time = TimestepEmbedding(TIME_FREQUENCIES, dim)
        self.mean = nn.Sequential(nn.Linear(text_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(ModulatedBlock(dim, settings.heads) for _ in range(settings.layers))
        self.out = nn.Linear(dim, token_dim)
        self.whole = nn.Linear(text_dim, token_dim)
        self.whole_gain = nn.Parameter(torch.tensor([GLOBAL_GAIN]))

    def tokens(self, states: Tensor, mask: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """As `TokenConnector` says; the last of the tokens is of the whole text."""
        from diffusers.models.embeddings import get_timestep_embedding

        mean = masked_mean(states, mask).to(states.dtype)
        level = get_timestep_embedding(timesteps, TIME_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        vector = self.time(level.to(states.dtype)) + self.mean(mean)
        tokens = self.into(states)
        for block in self.blocks:
            tokens = block(tokens, mask, vector)
        whole = self.whole(self.whole_gain * mean).unsqueeze(1)
        return torch.cat([self.out(tokens), whole], dim=1), torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
