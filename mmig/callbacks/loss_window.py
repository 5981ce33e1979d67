"""The losses of the last steps, and how far out of line a new one is."""

import statistics
from collections import deque
from collections.abc import Iterable

MAD_TO_STD = 1.4826
"""A normal distribution's standard deviation in units of its median absolute deviation."""
LEAST_SCALE = 1e-3
"""Of the median: a loss that hardly moves makes no spike of a change that nobody would see."""


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
