"""Generation without a checkpoint's own habits, and with what `generate` does not pass on."""

import contextlib
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from torch import nn

from mmig.base.watching import tell


@contextlib.contextmanager
def plain_generation(model: Any) -> Iterator[None]:
    """A `generate` of transformers inside obeys its arguments alone: without any it is greedy.

    A checkpoint's `generation_config.json` (repetition penalty, forbidden n-grams, least length, beams, temperature)
    fills in whatever the arguments leave open. A text written so is not the argmax of what teacher forcing sees.
    The search can be watched and stopped between two tokens (`mmig.base.watching`).

    Args:
        model: of transformers, the one whose `generate` searches; its own defaults are there again afterwards.
    """
    from transformers import GenerationConfig

    own, written = model.generation_config, count()
    model.generation_config = GenerationConfig()
    hook = model.register_forward_pre_hook(lambda *_: tell("writing", next(written)))
    try:
        yield
    finally:
        hook.remove()
        model.generation_config = own


@contextlib.contextmanager
def given_first(module: nn.Module, inputs: Mapping[str, Any]) -> Iterator[None]:
    """The first call of a module inside gets these arguments too: those of a prompt, which a search reads once.

    Args:
        module: called by names for these arguments.
        inputs: arguments by name; none changes nothing.
    """
    left = [dict(inputs)]

    def add(_module: nn.Module, args: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, named | (left.pop() if left else {})

    hook = module.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
