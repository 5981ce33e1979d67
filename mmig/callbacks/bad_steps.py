"""What makes a step a bad one: how far its loss is out of line; and such a step as a row of a file, and in words."""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

from mmig.training.steps import StepOutcome

MAD_TO_STD = 1.4826
"""A normal distribution's standard deviation in units of its median absolute deviation."""
LEAST_SCALE = 1e-3
"""Of the median: a loss that hardly moves makes no spike of a change that nobody would see."""
KEYS_SHOWN = 8
"""Keys that a line names; the file has all."""


class LossWindow:
    """The newest losses of a run.

    Median and median absolute deviation rather than mean and standard deviation: spikes enter the window too, and must
    not hide the next one.

    Args:
        size: number of losses.
        losses: those that there are already, oldest first; the newest `size` of them count.
    """

    def __init__(self, size: int, losses: Iterable[float] = ()) -> None:
        self.losses: deque[float] = deque(losses, maxlen=size)

    def add(self, loss: float) -> None:
        """Take in a finite loss in the place of the oldest."""
        self.losses.append(loss)

    def z_score(self, loss: float) -> float:
        """Robust standard deviations between a loss and the median; 0 as long as the window is not full."""
        if len(self.losses) < self.losses.maxlen:
            return 0.0
        median = statistics.median(self.losses)
        deviation = statistics.median(abs(value - median) for value in self.losses)
        scale = max(MAD_TO_STD * deviation, LEAST_SCALE * abs(median))
        return (loss - median) / scale if scale else 0.0


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
