"""Small connectors of every kind, and states for them."""

import torch
from torch import Tensor

from mmig.methods.mmig.token_connectors.connector import ConnectorSettings, TokenConnector
from mmig.methods.mmig.token_connectors.mlp import MLP
from mmig.methods.mmig.token_connectors.queries import LearnedQueries
from mmig.methods.mmig.token_connectors.refiner import Refiner

TEXT_DIM, TOKEN_DIM = 24, 16
KINDS: dict[str, ConnectorSettings] = {
    "uniworld": MLP(),
    "blip3o": MLP(hidden=TOKEN_DIM, activation="gelu", norm=True),
    "refiner": Refiner(dim=32, heads=4),
    "queries": LearnedQueries(number=5, dim=32, heads=4),
}


def make(kind: str, *, trained: bool = True, **changes: object) -> TokenConnector:
    """A small one; `trained` moves every weight off its start, where gates are closed and norms do nothing."""
    torch.manual_seed(0)
    settings = KINDS[kind]
    connector = type(settings)(**{**vars(settings), **changes}).build(TEXT_DIM, TOKEN_DIM)
    if trained:
        with torch.no_grad():
            for parameter in connector.parameters():
                parameter += 0.2 * torch.randn(parameter.shape)
    return connector.eval()


def inputs(batch: int = 3, length: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """States, a mask of rows with 1, 2, ... tokens, and timesteps."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(batch, length, TEXT_DIM, generator=generator)
    return states, torch.arange(length) <= torch.arange(batch).unsqueeze(1), torch.tensor([10, 400, 990])[:batch]
