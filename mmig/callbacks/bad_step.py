"""One bad step as a row of `bad_steps.jsonl`, and in words."""

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from mmig.training.steps import StepOutcome

KEYS_SHOWN = 8
"""Keys that a line names; the file has all."""


def bad_step_row(kind: str, step: int, outcome: StepOutcome, keys: list[list[str]], **facts: Any) -> dict[str, Any]:
    """What the file says of a step; numbers that are not finite as text.

    Args:
        kind: "skipped" or "spike". step: number of the step, the first being 1.
        outcome: of the step.
        keys: of the samples, rank by rank.
        facts: more of it, numbers finite.
    """
    numbers = {"loss": outcome.loss, "grad_norm": outcome.grad_norm}
    plain = {name: _plain(value) for name, value in numbers.items()}
    terms = {name: _plain(value) for name, value in outcome.terms.items()}
    return {"step": step, "kind": kind, **plain, "terms": terms, **facts, "keys": keys}


def blame(outcome: StepOutcome) -> str:
    """What was not finite, in words: the loss terms, the total or the gradient."""
    terms = [f"{name} is {value}" for name, value in outcome.terms.items() if not math.isfinite(value)]
    if terms:
        return f"loss term {', '.join(terms)}"
    if not math.isfinite(outcome.loss):
        return f"the loss is {outcome.loss}"
    return f"the gradient norm is {outcome.grad_norm} while the loss is {outcome.loss:.4g}"


def shown(keys_of_ranks: Sequence[Sequence[str]]) -> str:
    """The first keys of a batch in words, those of all ranks in turn."""
    in_turn = [key for keys in zip_longest(*keys_of_ranks) for key in keys if key is not None]
    left = len(in_turn) - KEYS_SHOWN
    return ", ".join(in_turn[:KEYS_SHOWN]) + (f" and {left} more" if left > 0 else "")


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
