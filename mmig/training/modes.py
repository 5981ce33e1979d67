"""Evaluation mode for a while."""

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """`module.eval()` inside, each submodule's own mode again afterwards.

    `module.train()` would not do: frozen parts stay in evaluation mode inside a module that trains. Inside, layers
    under gradient checkpointing keep a key-value cache, which they drop in training mode.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
