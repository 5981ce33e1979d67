"""Generation without a checkpoint's own habits."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def plain_generation(model: Any) -> Iterator[None]:
    """A `generate` of transformers inside obeys its arguments alone: without any it is greedy.

    A checkpoint's `generation_config.json` (repetition penalty, forbidden n-grams, least length, beams, temperature)
    fills in whatever the arguments leave open. A text written so is not the argmax of what teacher forcing sees.

    Args:
        model: of transformers, the one whose `generate` searches; its own defaults are there again afterwards.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
